"""Ways to use a datastore beside plain loops, and the whole comparison in miniature."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laws.families import small_config
from retentive.cli.registry import run_or_explain
from retentive.data.neighbours.stores import ChunkNeighbours, build_neighbours
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.chunk_scores import Chunks, RandomNeighbours, score_chunks
from retentive.evaluation.measures.documents import select_documents
from retentive.evaluation.measures.uncertainty import bootstrap_interval
from retentive.experiments.retrieval_evidence.in_context import score_in_context
from retentive.experiments.retrieval_evidence.nearest_tokens import Mixture, NearestTokens
from retentive.models.registry import build

WORDS = ["state", "token", "chunk", "neighbour", "decay", "query", "value", "reader", "memory", "segment"]
CHUNK = 8
Parts = tuple[Any, TokenStore, Chunks, ChunkNeighbours]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways")
    (folder / "text").mkdir()
    drawn = random.Random(0)
    for number in range(60):
        text = " ".join(drawn.choice(WORDS) for _ in range(20))
        (folder / "text" / f"{number}.txt").write_text(text)
    prepare(PrepareConfig(source=folder / "text", output=folder / "store", heldout_fraction=0.3))
    store = TokenStore.open(folder / "store")
    build_neighbours(store, folder / "neighbours", chunk_size=CHUNK)
    return folder


@pytest.fixture
def parts(place: Path) -> Parts:
    store = TokenStore.open(place / "store")
    torch.manual_seed(0)
    model = build(small_config("transformer", vocab_size=257)).eval()
    chunks = Chunks(select_documents(store, max_bytes=450), CHUNK)
    return model, store, chunks, ChunkNeighbours(store, "heldout", place / "neighbours", chunk_size=CHUNK)


def test_neighbours_stand_in_front_of_the_context(parts: Parts):
    model, store, chunks, neighbours = parts
    context, number = 12, 0
    found, alone = (score_in_context(model, chunks, each, context=context) for each in (neighbours, None))
    begin, gap = store.manifest.tokenizer.document_begin, list(store.tokenizer.encode("\n\n"))
    for document in chunks.documents.numbers.tolist():
        text = chunks.documents.text(document).tolist()
        for place in range(0, len(text), CHUNK):
            passages: list[int] = []
            if place:
                read = neighbours.tokens(np.array([document]), np.array([place // CHUNK - 1]))[0]
                for passage in read[::-1].tolist():
                    there = [token for token in passage if token >= 0]
                    passages += there + gap if there else []
            chunk = text[place : place + CHUNK]
            for scores, before in ((found, [begin, *passages]), (alone, [begin])):
                ids = torch.tensor([[*before, *text[max(0, place - context) : place], *chunk]])
                with torch.no_grad():
                    loss = model(ids[:, :-1]).logits.log_softmax(-1)[0, -len(chunk) :]
                expected = -loss.gather(1, torch.tensor(chunk)[:, None]).sum().item()
                assert scores.nats[number] == pytest.approx(expected, rel=1e-4)
                assert scores.num_bytes[number] == len(chunk)
            number += 1
    assert number == len(found.nats)
    whole = score_chunks(model, chunks, window=2048, stride=2048)
    everything = score_in_context(model, chunks, None, context=2048)
    assert np.allclose(everything.nats, whole.nats, rtol=1e-4)
    assert np.array_equal(everything.num_bytes, whole.num_bytes)


def test_nearest_tokens_are_mixed_into_the_prediction(parts: Parts, tmp_path: Path):
    model, store, chunks, _ = parts
    train = select_documents(store, split="train", max_documents=4)
    nearest = NearestTokens(tmp_path, model, train, layer=-1, windows=(64, 32))
    again = NearestTokens(tmp_path, model, train, layer=-1, windows=(64, 32))
    assert len(nearest) == len(again) == train.num_scored
    mixture, k = Mixture(share=0.3, temperature=2.0), 5
    plain = score_chunks(model, chunks, window=64, stride=32)
    assert np.allclose(nearest.score(chunks, Mixture(share=0.0, temperature=1.0), k=k).nats, plain.nats, rtol=1e-5)
    # By hand: the first document, which one window holds.
    keys, following = hidden_of(model, store, train)
    document = chunks.documents.numbers.tolist()[0]
    tokens = [store.manifest.tokenizer.document_begin, *chunks.documents.text(document).tolist()[:64]]
    queries, logits = states_of(model, torch.tensor([tokens[:-1]]))
    expected = np.zeros(len(chunks.owners))
    for at, label in enumerate(tokens[1:]):
        distances = ((keys - queries[at]) ** 2).sum(1)
        best = distances.argsort()[:k]
        weights = torch.softmax(-distances[best] / mixture.temperature, 0)
        mixed = 0.3 * weights[following[best] == label].sum() + 0.7 * logits[at].softmax(-1)[label]
        expected[at // CHUNK] -= float(mixed.log())
    scores = nearest.score(chunks, mixture, k=k)
    whole = min(len(chunks.documents.text(document)), 64) // CHUNK
    assert np.allclose(scores.nats[:whole], expected[:whole], rtol=1e-3)
    others = [nearest.score(chunks, mixture, k=k, which=which).nats.sum() for which in ("shuffled", "random")]  # type: ignore[arg-type]
    assert scores.nats.sum() < min(others)
    fitted = nearest.fit(chunks.documents, k=k)
    assert nearest.score(chunks, fitted, k=k).nats.sum() <= plain.nats.sum() + 1e-6


def hidden_of(model: Any, store: TokenStore, documents: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and what followed, of windows of 64 that score their last 32 tokens."""
    keys, following = [], []
    for document in documents.numbers.tolist():
        text = documents.text(document).tolist()
        before = [store.manifest.tokenizer.document_begin, *text]
        for begin in range(0, max(1, len(text) - 32), 32):
            tokens = before[begin : begin + 64][: len(text) - begin]
            hidden, _ = states_of(model, torch.tensor([tokens]))
            skipped = 0 if begin == 0 else 32
            keys.append(hidden[skipped:])
            following += text[begin + skipped : begin + len(tokens)]
    return torch.cat(keys), torch.tensor(following)


def states_of(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        decoder = model.decoder
        layout = decoder.layout(tokens, None)
        hidden = decoder.embed(tokens, layout)
        for block in decoder.blocks:
            before = hidden
            hidden, _ = block(hidden, None, layout)
        mixed, _ = block.mixer(block.mixer_norm(before), None, layout)
        return block.feed_forward_norm(before + mixed)[0], decoder.logits(decoder.norm(hidden))[0]


def test_random_neighbours_do_not_depend_on_what_is_asked_beside(
    parts: Parts,
):
    _, _, chunks, neighbours = parts
    drawn = RandomNeighbours(neighbours.database)
    together = drawn.tokens(np.array([[0, 1, -1]]), np.array([[2, 3, 0]]))
    assert together.shape == (1, 3, 2, 2 * CHUNK)
    assert (together[0, 2] == -1).all()
    assert np.array_equal(together[0, 1], drawn.tokens(np.array([1]), np.array([3]))[0])
    assert chunks.chunk_size == drawn.chunk_size


def test_an_interval_over_documents():
    sizes = np.array([10, 20, 0, 30, 40])
    assert bootstrap_interval(2.0 * sizes, sizes) == pytest.approx((2.0, 2.0))
    totals = np.random.default_rng(1).normal(1.0, 0.5, 200) * 10
    low, high = bootstrap_interval(totals, np.full(200, 10))
    assert low < totals.sum() / 2000 < high
    assert 0.1 < high - low < 0.2  # 4 deviations of 0.5 / 200 ** 0.5
    with pytest.raises(ValueError, match="sizes must have a document of more than 0"):
        bootstrap_interval(np.zeros(2), np.zeros(2, dtype=np.int64))


def test_all_ways_are_measured_and_nothing_twice(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    options = [str(place / "text"), "--output=made", "--seeds=[0]", "--heldout_bytes=200", "--resamples=50"]
    sizes = [
        "--steps=2",
        "--fit_steps=2",
        "--own_text_steps=1",
        "--side_by_side=1",
        "--batch_size=1",
        "--context=20",
        "--k=4",
    ]
    run_or_explain(["retrieval_evidence", *options, *sizes])
    content = json.loads((tmp_path / "made" / "retrieval_evidence.json").read_text())
    rows = {(row["way"], row["reads"]): row for row in content["rows"] if row["over"] == "all chunks"}
    ways = {"RETRO", "RETROfit", "nearest tokens (kNN-LM)", "neighbours in context"}
    for way in ways:
        for reads in ("none", "right", "shuffled", "random"):
            assert rows[way, reads]["bits"] > 0
        right, none = rows[way, "right"], rows[way, "none"]
        assert right["saved"] == pytest.approx(none["bits"] - right["bits"])
        assert right["over_shuffled"] == pytest.approx(rows[way, "shuffled"]["bits"] - right["bits"])
    # A fitted model without neighbours is the one that it was fitted to.
    assert rows["RETROfit", "none"]["bits"] == rows["model alone", "none"]["bits"]
    assert ("model alone, trained as long as RETRO", "none") in rows
    assert "fitted on" in content["notes"][0]
    assert (tmp_path / "made" / "report.html").exists()
