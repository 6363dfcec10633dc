"""The loss of each chunk: all of it once, with the neighbours that belong to it."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from laws.families import small_model
from retentive.data.neighbours.stores import ChunkNeighbours, build_neighbours
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.bits_per_byte import bits_per_byte_in_windows
from retentive.evaluation.measures.chunk_scores import Chunks, FoundNeighbours, OthersNeighbours, score_chunks
from retentive.evaluation.measures.documents import Documents, select_documents
from retentive.retrieval import Datastore

CHUNK = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("scores")
    (folder / "text").mkdir()
    drawn = random.Random(1)
    for number in range(20):
        words = [drawn.choice(["state", "token", "chunk", "decay", "naïve"]) for _ in range(drawn.randint(1, 12))]
        (folder / "text" / f"{number}.txt").write_text(f"{number}: {' '.join(words)}")
    prepare(PrepareConfig(source=folder / "text", output=folder / "store", heldout_fraction=0.3))
    found = TokenStore.open(folder / "store")
    build_neighbours(found, folder / "neighbours", chunk_size=CHUNK)
    return found


@pytest.fixture(scope="module")
def documents(store: TokenStore) -> Documents:
    found = select_documents(store)
    assert len(found.numbers) > 2
    return found


def retro(**changes):
    from laws.families import small_config

    backbone = type(small_config("transformer"))(vocab_size=257, hidden_size=16, num_layers=2, num_heads=4)
    return small_model("retro", backbone=backbone, chunk_size=CHUNK, chunk_offset=1, **changes)


def test_chunks_are_cut_as_the_datastore_cuts_them(store: TokenStore, documents: Documents):
    chunks = Chunks(documents, CHUNK)
    corpus = Datastore.open(store.folder.parent / "neighbours" / "heldout").corpus
    names = {name: number for number, name in corpus.names()}
    tokens = chunks.tokens()
    for place, (owner, number) in enumerate(zip(chunks.owners, chunks.numbers, strict=True)):
        chunk = corpus.chunks_of(names[store.document_names("heldout")[owner]])[number]
        assert tokens[place].tolist() == corpus.tokens(np.array([chunk]))[0].tolist()
    assert len(tokens) == corpus.num_chunks


def test_without_neighbours_it_is_the_usual_loss(documents: Documents):
    model, chunks = retro(), Chunks(documents, CHUNK)
    scores = score_chunks(model, chunks, window=32, stride=16, batch_size=3)
    usual = bits_per_byte_in_windows(model, documents, window=32, stride=16)
    assert scores.bits_per_byte == pytest.approx(usual.bits_per_byte)
    assert scores.num_bytes.sum() == usual.bytes
    with pytest.raises(ValueError, match="stride must be whole chunks of 8 tokens, but is 12"):
        score_chunks(model, chunks, window=32, stride=12)


@torch.no_grad()
def test_each_chunk_is_read_with_its_neighbours(store: TokenStore, documents: Documents):
    model, chunks = retro(), Chunks(documents, CHUNK)
    neighbours = ChunkNeighbours(store, "heldout", store.folder.parent / "neighbours", chunk_size=CHUNK)
    scores = score_chunks(model, chunks, neighbours, window=10_000, stride=CHUNK, batch_size=2)
    for first, count, number in zip(chunks.first, chunks.counts, documents.numbers, strict=True):
        text = torch.from_numpy(documents.text(int(number)).astype(np.int64))
        tokens = torch.cat((torch.tensor([256]), text))[None, :-1]
        whole = (len(text) - 1) // CHUNK
        found = neighbours.tokens(np.full((1, whole), number), np.arange(whole)[None])
        logits = model(tokens, neighbours=torch.from_numpy(found)).logits[0]
        nats = torch.nn.functional.cross_entropy(logits, text, reduction="none")
        for chunk in range(count):
            wanted = nats[chunk * CHUNK : (chunk + 1) * CHUNK].sum().item()
            assert scores.nats[first + chunk] == pytest.approx(wanted, rel=1e-5)
    off = score_chunks(model, chunks, window=10_000, stride=CHUNK)
    assert not np.allclose(off.nats, scores.nats)


def test_others_neighbours_are_a_permutation(store: TokenStore, documents: Documents):
    chunks = Chunks(documents, CHUNK)
    neighbours = ChunkNeighbours(store, "heldout", store.folder.parent / "neighbours", chunk_size=CHUNK)
    others = OthersNeighbours(neighbours, chunks)
    whole = np.array([place for place, row in enumerate(chunks.tokens()) if (row >= 0).all()])
    owners, numbers = chunks.owners[whole], chunks.numbers[whole]
    right, wrong = neighbours.tokens(owners, numbers), others.tokens(owners, numbers)
    assert sorted(map(bytes, right)) == sorted(map(bytes, wrong))
    assert (right != wrong).any((1, 2)).mean() > 0.5
    nothing = others.tokens(np.array([[-1]]), np.array([[-1]]))
    assert (nothing == -1).all()


def test_neighbours_from_another_datastore(documents: Documents, tmp_path: Path):
    chunks = Chunks(documents, CHUNK)
    database = Datastore.build([("one", "token state decay chunk token")], tmp_path, chunk_size=CHUNK)
    found = FoundNeighbours(database, chunks, k=1).tokens(np.array([[documents.numbers[0], -1]]), np.array([[0, -1]]))
    text = documents.text(int(documents.numbers[0]))[:CHUNK].astype(np.int64)
    assert found.shape == (1, 2, 1, 2 * CHUNK)
    assert (found[0, 0] == database.search(text[None], k=1).tokens[0]).all()
    assert (found[0, 1] == -1).all()
    assert score_chunks(retro(), chunks, FoundNeighbours(database, chunks), window=32, stride=16).bits_per_byte > 0
