"""Windows joined with neighbours: whole chunks, the right ones, none of the sample's own documents."""

import pickle
import random
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.data.neighbours.batches import ChunkedWindows, OwnText, RetrievalBatches, ended_chunks
from retentive.data.neighbours.stores import ChunkNeighbours, build_neighbours
from retentive.data.packing import PackedWindows
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.streams import StreamedWindows
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.models.retro import Retro, RetroConfig
from retentive.models.transformer import TransformerConfig
from retentive.retrieval import Datastore, NeighbourConfig

CHUNK = 8
WORDS = ["state", "token", "chunk", "neighbour", "decay", "query", "value", "reader", "memory", "segment"]


def write_texts(folder: Path, changed: str | None = None) -> Path:
    """Documents of 3 to 60 words, some of them alike."""
    folder.mkdir()
    drawn = random.Random(0)
    for number in range(24):
        words = [drawn.choice(WORDS) for _ in range(drawn.randint(3, 60))]
        text = f"{number}: {' '.join(words)}" + (" and so on" if changed == f"{number}.txt" else "")
        (folder / f"{number}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("retrieval")
    prepare(PrepareConfig(source=write_texts(folder / "text"), output=folder / "store", heldout_fraction=0.3))
    found = TokenStore.open(folder / "store")
    assert len(found.document_names("heldout")) > 2
    return found


@pytest.fixture(scope="module")
def folder(store: TokenStore) -> Path:
    build_neighbours(store, store.folder / "neighbours", chunk_size=CHUNK)
    return store.folder / "neighbours"


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), data=st.data())
@settings(deadline=None, max_examples=40)
def test_every_token_is_predicted_once_and_every_chunk_is_whole(store_of, lengths, data):
    chunk = data.draw(st.integers(1, 6))
    window = chunk * data.draw(st.integers(1, 4)) + data.draw(st.integers(0, 3))
    made = store_of(lengths, vocab_size=300)
    windows = ChunkedWindows(made, "train", window, 1, 0, chunk_size=chunk)
    tokens, end = made.tokens("train"), made.manifest.tokenizer.end_of_text
    predicted: list[tuple[int, int]] = []
    for step in range(windows.windows_per_epoch):
        batch, (row,) = windows.batch(step), windows.stretches(step)
        labelled = torch.zeros(window, dtype=torch.bool)
        for stretch in row:
            columns = slice(stretch.column, stretch.column + stretch.length)
            labelled[columns] = True
            first = int(made.document_offsets("train")[stretch.document]) + stretch.begin
            assert batch.labels[0, columns].tolist() == tokens[first : first + stretch.length].tolist()
            before = end if stretch.begin == 0 else int(tokens[first - 1])
            assert batch.tokens[0, columns].tolist() == [before, *tokens[first : first + stretch.length - 1].tolist()]
            assert batch.starts[0, columns].tolist() == [stretch.begin == 0] + [False] * (stretch.length - 1)
            predicted += [(stretch.document, stretch.begin + i) for i in range(stretch.length)]
            if stretch.begin:
                assert stretch.begin % chunk == 0
                assert stretch.column == 0
        assert batch.labels[0, ~labelled].eq(-100).all()
        assert batch.starts[0, ~labelled].all()
        assert batch.tokens[0, ~labelled].eq(end).all()
    assert sorted(predicted) == [(d, i) for d, length in enumerate(lengths) for i in range(length + 1)]
    packed = PackedWindows(made, "train", window, 1, 0)
    assert windows.windows_per_epoch <= packed.windows_per_epoch * 2 + len(lengths)


def small_retro(store: TokenStore) -> Retro:
    backbone = TransformerConfig(
        vocab_size=store.manifest.tokenizer.vocab_size, hidden_size=8, num_layers=1, num_heads=1, window=16
    )
    config = RetroConfig(
        backbone=backbone,
        chunk_size=CHUNK,
        cross_layers=(1,),
        encoder_hidden_size=8,
        encoder_num_layers=1,
        encoder_num_heads=1,
        chunk_offset=1,
    )
    return Retro(config).eval()


@pytest.mark.parametrize("mode", ["packed", "streamed"])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_neighbours_are_of_the_chunks_that_the_model_ends(store: TokenStore, folder: Path, mode: str, split):
    model, neighbours = small_retro(store), ChunkNeighbours(store, split, folder, chunk_size=CHUNK)
    queries, database = Datastore.open(folder / split), Datastore.open(folder / "train")
    windows = (
        ChunkedWindows(store, split, 3 * CHUNK, 4, 0, chunk_size=CHUNK)
        if mode == "packed"
        else StreamedWindows(store, split, 21, 4, 0)
    )
    batches = RetrievalBatches(windows, neighbours)
    state, seen = None, 0
    for step in range(8):
        batch = batches.batch(step)
        starts = batch.starts
        ended = model.ended_chunks(batch.tokens, state, starts=starts)
        assert batch.extra_inputs["neighbours"].shape == (4, ended.shape[1], 2, 2 * CHUNK)
        documents, chunks = ended_chunks(windows.stretches(step), CHUNK, carries_state=mode == "streamed")
        for row, column in np.argwhere(documents >= 0).tolist():
            name = store.document_names(split)[documents[row, column]]
            (number,) = (number for number, found in queries.corpus.names() if found == name)
            chunk = queries.corpus.chunks_of(number)[chunks[row, column]]
            assert queries.corpus.tokens(np.array([chunk]))[0].tolist() == ended[row, column].tolist()
            ids = neighbours.table.ids(np.array([chunk]))[0]
            assert (
                batch.extra_inputs["neighbours"][row, column].tolist()
                == database.corpus.with_continuations(ids).tolist()
            )
            found = {database.corpus.document_name(int(d)) for d in database.corpus.documents(ids[ids >= 0])}
            assert name not in found
            seen += 1
        nothing = torch.from_numpy(documents < 0)
        assert ended[nothing].eq(-1).all()
        assert batch.extra_inputs["neighbours"][nothing].eq(-1).all()
        output = model(batch.tokens, state, batch.labels, neighbours=batch.extra_inputs["neighbours"], starts=starts)
        assert output.loss is not None
        assert output.loss.isfinite()
        state = output.state if mode == "streamed" else None
    assert seen > 20


def test_shares_of_a_batch_are_the_batch(store: TokenStore, folder: Path):
    neighbours = ChunkNeighbours(store, "train", folder, chunk_size=CHUNK)
    windows = ChunkedWindows(store, "train", 4 * CHUNK, 4, 3, chunk_size=CHUNK)
    batches = RetrievalBatches(windows, neighbours, share_without=0.5, seed=1)
    whole = batches.batch(2)
    for rank in range(4):
        share = pickle.loads(pickle.dumps(batches)).batch(2, rank, 4)  # noqa: S301 - our own, as workers get it
        assert torch.equal(share.tokens[0], whole.tokens[rank])
        assert torch.equal(
            share.extra_inputs["neighbours"][0],
            whole.extra_inputs["neighbours"][rank, : share.extra_inputs["neighbours"].shape[1]],
        )
        assert whole.extra_inputs["neighbours"][rank, share.extra_inputs["neighbours"].shape[1] :].eq(-1).all()


def test_a_share_of_samples_is_given_no_neighbours(store: TokenStore, folder: Path):
    neighbours = ChunkNeighbours(store, "train", folder, chunk_size=CHUNK)
    windows = ChunkedWindows(store, "train", 4 * CHUNK, 8, 3, chunk_size=CHUNK)
    shares = []
    for share in (0.0, 0.3, 1.0):
        batches = RetrievalBatches(windows, neighbours, share_without=share, seed=1)
        found = [batches.batch(step).extra_inputs["neighbours"] for step in range(12)]
        shares.append(np.mean([row.eq(-1).all().item() for batch in found for row in batch]))
    assert shares[0] < 0.1
    assert shares[1] == pytest.approx(shares[0] + 0.3, abs=0.12)
    assert shares[2] == 1
    with pytest.raises(ValueError, match=r"share_without must be from 0 to 1, but is 1\.5"):
        RetrievalBatches(windows, neighbours, share_without=1.5)


def test_datastores_of_other_text_are_refused(store: TokenStore, folder: Path, tmp_path: Path):
    with pytest.raises(MismatchError, match=r"must have the model's chunk_size, 16, but has 8; set model"):
        ChunkNeighbours(store, "train", folder, chunk_size=16)
    with pytest.raises(FileNotFoundError, match="has no neighbour table of this version with k=7"):
        ChunkNeighbours(store, "train", folder, config=NeighbourConfig(k=7), chunk_size=CHUNK)
    with pytest.raises(FileNotFoundError):
        ChunkNeighbours(store, "train", tmp_path, chunk_size=CHUNK)
    name = Path(store.document_names("train")[3]).name
    text = write_texts(tmp_path / "text", changed=name)
    prepare(PrepareConfig(source=text, output=tmp_path / "longer", heldout_fraction=0.3))
    longer = TokenStore.open(tmp_path / "longer")
    with pytest.raises(MismatchError, match=r"must have every document of 'train' of .* another version of the text"):
        ChunkNeighbours(longer, "train", folder, chunk_size=CHUNK)
    other = PrepareConfig(source=text, output=tmp_path / "bpe", heldout_fraction=0.3, tokenizer="bpe", vocab_size=300)
    prepare(other)
    with pytest.raises(MismatchError, match="was built with the tokenizer of fingerprint"):
        ChunkNeighbours(TokenStore.open(tmp_path / "bpe"), "train", folder, chunk_size=CHUNK)


def test_a_table_of_an_earlier_version_is_refused(store: TokenStore, folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "neighbours")
    queries = Datastore.open(tmp_path / "neighbours" / "train")
    queries.add([("one more", "state token chunk")])
    with pytest.raises(FileNotFoundError, match="has no neighbour table of this version"):
        ChunkNeighbours(store, "train", tmp_path / "neighbours", chunk_size=CHUNK)
    with pytest.raises(FileNotFoundError, match="has no neighbour table of this version"):
        ChunkNeighbours(store, "heldout", tmp_path / "neighbours", chunk_size=CHUNK)


def test_text_that_was_exchanged_under_the_same_name_is_found(store: TokenStore, tmp_path: Path):
    names, tokens = store.document_names("train"), store.tokens("train")
    offsets = store.document_offsets("train")
    texts = [store.tokenizer.decode(tokens[a : b - 1].tolist()) for a, b in pairwise(offsets)]
    texts = [text.replace("state", "STATE") for text in texts]
    made = Datastore.build(zip(names, texts, strict=True), tmp_path / "train", chunk_size=CHUNK)
    made.build_neighbours()
    neighbours = ChunkNeighbours(store, "train", tmp_path, chunk_size=CHUNK)
    batches = RetrievalBatches(ChunkedWindows(store, "train", 32, 4, 0, chunk_size=CHUNK), neighbours)
    with pytest.raises(MismatchError, match=r"chunk \d+ of '.*txt' must be the same in the datastore .* but is not"):
        _ = [batches.batch(step) for step in range(20)]


def test_own_text_teaches_to_copy_and_falls_away(store: TokenStore, folder: Path):
    neighbours = ChunkNeighbours(store, "train", folder, chunk_size=CHUNK)
    windows = ChunkedWindows(store, "train", 4 * CHUNK, 8, 3, chunk_size=CHUNK)
    plain = RetrievalBatches(windows, neighbours, seed=1)
    batches = RetrievalBatches(windows, neighbours, own_text=OwnText(released=2, fall=6), seed=1)
    changed = []
    for step in range(10):
        given, real = batches.batch(step).extra_inputs["neighbours"], plain.batch(step).extra_inputs["neighbours"]
        assert given is not None
        assert real is not None
        documents, chunks = ended_chunks(windows.stretches(step), CHUNK, carries_state=False)
        rows = 0
        for row in range(8):
            places = [place for place in range(documents.shape[1]) if documents[row, place] >= 0]
            others = [(given[row, place] != real[row, place]).any(1) for place in places]
            assert all(int(other.sum()) <= 1 for other in others)
            rows += any(bool(other.any()) for other in others)
            for place, other in zip(places, others, strict=True):
                for slot in other.nonzero().flatten().tolist():
                    text = given[row, place, slot]
                    begin, end = store.document_offsets("train")[documents[row, place] :][:2].tolist()
                    tokens = store.tokens("train")[begin : end - 1].tolist()
                    first = [
                        shift
                        for shift in range(-CHUNK // 2, CHUNK // 2 + 1)
                        if all(
                            token == (tokens[at] if 0 <= at < len(tokens) else -1)
                            for token, at in zip(
                                text.tolist(), range(int(chunks[row, place]) * CHUNK + shift, 10**6), strict=False
                            )
                        )
                    ]
                    assert first
        changed.append(rows / 8)
    assert changed[:3] == [1, 1, 1]
    assert changed[5] < 1
    assert changed[8:] == [0, 0]
    assert [OwnText().share(step) for step in (0, 9, 10**6)] == [1, 1, 1]  # held until it is let go


def test_others_neighbours_are_those_of_other_chunks_of_the_batch(store: TokenStore, folder: Path):
    neighbours = ChunkNeighbours(store, "train", folder, chunk_size=CHUNK)
    windows = ChunkedWindows(store, "train", 4 * CHUNK, 8, 3, chunk_size=CHUNK)
    right, wrong = (
        RetrievalBatches(windows, neighbours, others=others).batch(0).extra_inputs["neighbours"]
        for others in (False, True)
    )
    assert right is not None
    assert wrong is not None
    documents, _ = ended_chunks(windows.stretches(0), CHUNK, carries_state=False)
    there = documents.reshape(-1) >= 0
    ours, theirs = right.flatten(0, 1)[there], wrong.flatten(0, 1)[there]
    assert torch.equal(theirs, ours.roll(len(ours) // 2, 0))
    assert (ours != theirs).flatten(1).any(1).float().mean() > 0.5
