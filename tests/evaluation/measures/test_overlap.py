"""Runs of tokens that chunks share with their neighbours, and bits per byte by how long they are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.evaluation.measures.overlap import bits_per_byte_up_to, longest_common_runs, overlaps
from retentive.retrieval import Datastore


def naive(chunk: list[int], passage: list[int]) -> int:
    """The longest run, by trying each."""
    runs = [chunk[a:b] for a in range(len(chunk)) for b in range(a + 1, len(chunk) + 1) if min(chunk[a:b]) >= 0]
    inside = [run for run in runs if any(passage[i : i + len(run)] == run for i in range(len(passage)))]
    return max(map(len, inside), default=0)


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_longest_runs_are_those_of_trying_each(data):
    tokens = st.integers(-1, 3)
    length, width, k = (data.draw(st.integers(1, most)) for most in (7, 9, 3))
    chunks = [data.draw(st.lists(tokens, min_size=length, max_size=length)) for _ in range(2)]
    passages = [
        [data.draw(st.lists(tokens, min_size=width, max_size=width)) for _ in range(k)] for _ in range(len(chunks))
    ]
    found = longest_common_runs(np.array(chunks), np.array(passages))
    wanted = [max(naive(chunk, row) for row in rows) for chunk, rows in zip(chunks, passages, strict=True)]
    assert found.tolist() == wanted


def test_overlap_is_with_the_nearest_chunks_and_what_follows_them(tmp_path: Path):
    text = "the quick brown fox jumps over the lazy dog and runs"
    store = Datastore.build([("fox", text), ("other", "nothing like it was told")], tmp_path, chunk_size=8)
    chunks = np.array([list(b"brown fo"), list(b"zzzzzzzz"), list(b"zz brown")])
    # "brown fo" stands across two chunks, of which the nearest is read with the next one.
    assert overlaps(chunks, store, k=2).tolist() == [1.0, 0.0, 6 / 8]
    assert overlaps(chunks, store, k=2, at_once=1).tolist() == [1.0, 0.0, 6 / 8]
    assert overlaps(chunks[:0], store).tolist() == []
    with pytest.raises(ValueError, match="k must be at least 1, but is 0"):
        overlaps(chunks, store, k=0)


def test_bits_per_byte_up_to_all_overlap_is_that_of_all():
    overlap, nats = np.array([0.0, 0.5, 1.0]), np.log(2) * np.array([3.0, 8.0, 1.0])
    num_bytes = np.array([2, 4, 1])
    assert bits_per_byte_up_to(1.0, overlap, nats, num_bytes) == pytest.approx(12 / 7)
    assert bits_per_byte_up_to(0.5, overlap, nats, num_bytes) == pytest.approx(11 / 6)
    assert bits_per_byte_up_to(0.125, overlap, nats, num_bytes) == pytest.approx(3 / 2)
    assert bits_per_byte_up_to(0.125, overlap + 0.2, nats, num_bytes) is None
