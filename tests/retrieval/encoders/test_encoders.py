import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertModel

from retentive.errors import MismatchError
from retentive.retrieval import Datastore, DenseEncoder, HybridEncoder, LexicalEncoder, VectorEncoder, make_encoder
from retentive.retrieval.encoders import encoder_from_settings
from retentive.retrieval.encoders.hybrid import fuse_ranks, fuse_scores
from retentive.retrieval.encoders.words import split_words
from retentive.retrieval.passages import Passages
from retrieval.small_models import TEXTS, make_model
from retrieval.texts import HashedWords, make_documents


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def encoder(model):
    return DenseEncoder(model, batch_size=3)


def test_texts_become_ids_with_special_tokens_and_a_mask(encoder):
    ids, mask = encoder.tokenize(TEXTS)
    assert ids.shape == mask.shape
    assert ids.dtype == np.int64
    assert (ids[:, 0] == 2).all()
    assert (ids[np.arange(len(ids)), mask.sum(axis=1) - 1] == 3).all()
    assert (ids[~mask] == 0).all()
    # Neither cut at 5 as the file says, nor are the strings of special tokens special.
    assert mask.sum(axis=1)[2] > 20
    assert ((ids == 3) & mask).sum(axis=1).tolist() == [1, 1, 1, 1]
    plain, kept = encoder.tokenize(TEXTS, special_tokens=False)
    assert kept.sum(axis=1).tolist() == (mask.sum(axis=1) - 2).tolist()
    assert plain[0, : kept[0].sum()].tolist() == ids[0, 1 : mask[0].sum() - 1].tolist()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_pooled_hidden_states(model, encoder, pooling):
    network = BertModel.from_pretrained(model).eval()
    ids, mask = encoder.tokenize(TEXTS)
    found = DenseEncoder(model, normalize=False).embed(ids, mask, pooling=pooling)
    for row in range(len(TEXTS)):
        with torch.no_grad():
            hidden = network(torch.tensor(ids[row : row + 1, : mask[row].sum()])).last_hidden_state[0]
        expected = hidden.mean(dim=0) if pooling == "mean" else hidden[0]
        np.testing.assert_allclose(found[row], expected.numpy(), atol=1e-5)


def test_padding_and_neighbours_in_a_batch_change_nothing(encoder):
    ids, mask = encoder.tokenize(TEXTS)
    together = encoder.embed(ids, mask)
    wider = np.pad(ids, ((0, 0), (0, 9)), constant_values=77), np.pad(mask, ((0, 0), (0, 9)))
    np.testing.assert_allclose(encoder.embed(*wider), together, atol=1e-5)
    for row in range(len(TEXTS)):
        np.testing.assert_allclose(encoder.embed(ids[row : row + 1], mask[row : row + 1])[0], together[row], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert encoder.embed(ids[:0], mask[:0]).shape == (0, 32)


@pytest.mark.parametrize("own_tokens", [True, False])
def test_the_query_of_a_stored_chunk_is_its_key(tmp_path, encoder, own_tokens):
    tokenizer = encoder.tokenizer if own_tokens else None
    Datastore.build(make_documents(8), tmp_path / "s", tokenizer=tokenizer, encoder=encoder, chunk_size=32)
    store = Datastore.open(tmp_path / "s")
    ids = np.arange(len(store))
    keys = np.concatenate(list(store.searcher._vectors[1].blocks()))
    for one in ids:
        queries = store.searcher.queries(Passages(store.corpus.tokens(ids[one : one + 1]), store.tokenizer))
        np.testing.assert_allclose(queries.vectors[0], keys[one], atol=1e-5)
    assert store.search(store.corpus.tokens(ids), k=1).ids[:, 0].tolist() == ids.tolist()


def test_a_chunk_of_the_models_own_tokens_is_not_tokenized_again(encoder):
    ids = encoder.tokenizer.encode("baa [SEP] bab")
    rows = np.array([[*ids, -1, -1]])
    (vector,) = encoder.encode(Passages(rows, encoder.tokenizer))
    np.testing.assert_allclose(vector, encoder.embed(*encoder.tokenize(["baa [SEP] bab"]))[0], atol=1e-6)


def test_the_fingerprint_is_of_everything_that_decides_vectors(tmp_path, model):
    one = DenseEncoder(model).fingerprint()
    moved = shutil.copytree(model, tmp_path / "moved")
    assert DenseEncoder(moved).fingerprint() == one
    assert DenseEncoder(moved, batch_size=7).fingerprint() == one
    others = [
        DenseEncoder(moved, pooling="cls"),
        DenseEncoder(moved, normalize=False),
        DenseEncoder(moved, max_length=20),
        DenseEncoder(make_model(tmp_path / "other", seed=1)),
    ]
    assert len({one, *(other.fingerprint() for other in others)}) == 5


def test_encoders_can_be_sent_and_made_again_from_a_manifest(model):
    options = {"pooling": "cls", "normalize": False, "batch_size": 5, "max_length": 40}
    for encoder in (DenseEncoder(model, **options), HybridEncoder(DenseEncoder(model), depth=7), LexicalEncoder()):
        for again in (
            pickle.loads(pickle.dumps(encoder)),  # noqa: S301 - our own
            encoder_from_settings(json.loads(json.dumps(encoder.settings()))),
        ):
            assert again.settings() == encoder.settings()
            assert again.fingerprint() == encoder.fingerprint()
    assert encoder_from_settings(HashedWords().settings()) is None
    assert isinstance(HashedWords(), VectorEncoder)
    assert isinstance(DenseEncoder(model), VectorEncoder)


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_changed_model_is_detected(tmp_path, hybrid):
    folder, documents = make_model(tmp_path / "bert"), make_documents(3)
    encoder = HybridEncoder(DenseEncoder(folder)) if hybrid else DenseEncoder(folder)
    store = Datastore.build(documents, tmp_path / "s", encoder=encoder, chunk_size=16)
    store.remove([documents[0][0]])
    make_model(folder, seed=1)
    # Vectors of two models in one index would be compared with each other.
    for change in (
        lambda store: store.search("baa"),
        lambda store: store.add([("new", "baa bab")]),
        lambda store: store.add([(documents[1][0], "baa bab")], replace=True),
        lambda store: store.sync([*documents, ("new", "baa bab")]),
        lambda store: store.gc(),
    ):
        with pytest.raises(MismatchError, match=r"model was changed since .*: restore the model, or .* index reindex"):
            change(Datastore.open(tmp_path / "s"))
    Datastore.open(tmp_path / "s").reindex()
    fresh = HybridEncoder(DenseEncoder(folder)) if hybrid else DenseEncoder(folder)
    fresh = Datastore.build(documents[1:], tmp_path / "fresh", encoder=fresh, chunk_size=16)
    again = Datastore.open(tmp_path / "s")
    np.testing.assert_array_equal(again.search("baa bab", k=5).scores, fresh.search("baa bab", k=5).scores)
    assert again.manifest.settings["encoder"] == fresh.manifest.settings["encoder"]
    assert again.verify() == []
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=r"model must be a folder or the id of a model on the hub, but"):
        Datastore.open(tmp_path / "s").search("baa")


def test_what_cannot_be_encoded_is_refused(model, encoder):
    with pytest.raises(
        ValueError, match=r"a passage may have 78 tokens of .*, but one has 100: take a smaller chunk_size"
    ):
        encoder.tokenize(["baa " * 100])
    with pytest.raises(ValueError, match="mask must keep a token in every row, but row 1 has none"):
        encoder.embed(np.ones((2, 3), dtype=np.int64), np.array([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match="batch_size must be at least 1 passage, but is 0"):
        DenseEncoder(model, batch_size=0)
    with pytest.raises(ValueError, match=r"encoder must be one of lexical, dense, hybrid, but is 'sparse'"):
        make_encoder("sparse")
    with pytest.raises(ValueError, match=r"encoder dense needs model=, a folder or a hub id"):
        make_encoder("dense")
    with pytest.raises(ValueError, match=r"encoder lexical has no model, but model is 'x'"):
        make_encoder("lexical", "x")
    with pytest.raises(ValueError, match="depth must be at least 1 answer, but is 0"):
        HybridEncoder(DenseEncoder(model), depth=0)
    with pytest.raises(ValueError, match="rank_constant must be positive, but is 0"):
        HybridEncoder(DenseEncoder(model), rank_constant=0.0)


class NotANumber(HashedWords):
    def vector(self, text):
        return np.full(self.size, np.nan, dtype=np.float32)


def test_vectors_that_are_not_finite_stop_the_build(tmp_path):
    with pytest.raises(
        ValueError, match=r"must give \d+ vectors of 16 finite numbers, but gave numbers that are not finite"
    ):
        Datastore.build(make_documents(3), tmp_path / "s", encoder=NotANumber())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world_1!", ["hello", "world_1"]),
        ("L'été à 3.5%", ["l", "été", "à", "3", "5"]),
        ("北京ab東京", ["北", "京", "ab", "東", "京"]),
        ("ひらがな", ["ひ", "ら", "が", "な"]),
        ("x" * 300, ["x" * 255]),
        (" \n\u3000", []),
    ],
)
def test_words(text, words):
    assert split_words(text).keys == words


@given(
    rankings=st.lists(st.permutations(range(6)).map(lambda order: order[:4]), min_size=1, max_size=3),
    k=st.integers(1, 20),
    missing=st.integers(0, 3),
)
def test_fused_ranks_are_sums_of_reciprocal_ranks(rankings, k, missing):
    rows = [list(ranking) for ranking in rankings]
    rows[0][4 - missing :] = [-1] * missing
    scores, ids = fuse_ranks([np.array([row]) for row in rows], k)
    expected: dict[int, float] = {}
    for row in rows:
        for rank, number in enumerate(row, start=1):
            if number >= 0:
                expected[number] = expected.get(number, 0) + 1 / (60 + rank)
    found = {number: score for number, score in zip(ids[0].tolist(), scores[0].tolist(), strict=True) if number >= 0}
    assert scores.shape == ids.shape == (1, k)
    assert len(found) == min(k, len(expected))
    assert found == {number: pytest.approx(expected[number], rel=1e-6) for number in found}
    ordered = sorted(expected.values(), reverse=True)[:k]
    assert sorted(found.values(), reverse=True) == pytest.approx(ordered, rel=1e-6)


def test_fused_scores_are_weighted_and_do_not_depend_on_how_many_are_asked_for():
    words = (np.array([[9.0, 6.0, 3.0, 1.0]], dtype=np.float32), np.array([[4, 1, 2, 7]]))
    vectors = (np.array([[-1.0, -2.0, -np.inf, -np.inf]], dtype=np.float32), np.array([[2, 4, -1, -1]]))
    scores, ids = fuse_scores([words, vectors], [0.6, 0.4], 6, depth=3)
    assert ids.tolist() == [[4, 2, 1, 7, -1, -1]]
    np.testing.assert_allclose(scores[0], [0.6, 0.4, 0.3, 0.0, 0, 0], atol=1e-5)
    assert fuse_scores([words, vectors], [0.6, 0.4], 2, depth=3)[1].tolist() == [[4, 2]]
    nothing = (np.full((1, 4), -np.inf, dtype=np.float32), np.full((1, 4), -1))
    assert fuse_scores([nothing, vectors], [0.6, 0.4], 2, depth=3)[1].tolist() == [[2, 4]]
    assert fuse_scores([nothing, nothing], [0.6, 0.4], 2, depth=3)[1].tolist() == [[-1, -1]]
    equal = (np.array([[5.0, 5.0, -np.inf, -np.inf]], dtype=np.float32), np.array([[3, 8, -1, -1]]))
    assert fuse_scores([equal, nothing], [0.6, 0.4], 2, depth=3)[1].tolist() == [[3, 8]]
