"""Runs of tokens that a chunk and a passage have in common, and passages that are shifted by them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from retentive.retrieval.blocks.corpus import MISSING, Corpus
from retentive.retrieval.passages import NO_TOKEN


@dataclass(frozen=True, slots=True)
class CommonRuns:
    """The longest run of tokens that each chunk has in common with each of its passages; of equal ones the first.

    Attributes:
        lengths: Tokens of the run; 0 where nothing is common.
        shifts: Place of the run in the passage, minus its place in the chunk.
    """

    lengths: Int64[np.ndarray, "chunks k"]
    shifts: Int64[np.ndarray, "chunks k"]


def common_runs(
    chunks: Int64[np.ndarray, "chunks length"], passages: Int64[np.ndarray, "chunks k width"]
) -> CommonRuns:
    """Find the longest common runs.

    Args:
        chunks: Token ids, below 0 where there is none.
        passages: What each chunk is compared with; below 0 where there is nothing.
    """
    count, k, width = passages.shape
    longest, shifts = np.zeros((count, k), dtype=np.int64), np.zeros((count, k), dtype=np.int64)
    # Length of the common run that ends at the chunk's token so far and at each token of the passages.
    runs = np.zeros((count, k, width + 1), dtype=np.int32)
    for place, tokens in enumerate(chunks.T):
        same = (passages == tokens[:, None, None]) & (tokens >= 0)[:, None, None]
        runs[:, :, 1:] = np.where(same, runs[:, :, :-1] + 1, 0)
        end = runs.argmax(2)
        length = np.take_along_axis(runs, end[..., None], 2)[..., 0]
        longer = length > longest
        longest[longer], shifts[longer] = length[longer], (end - 1 - place)[longer]
    return CommonRuns(longest, shifts)


def shifted(
    corpus: Corpus, ids: Int64[np.ndarray, "chunks k"], shifts: Int64[np.ndarray, "chunks k"]
) -> Int64[np.ndarray, "chunks k length"]:
    """Passages of two chunks that begin some tokens after (or before) chunks, inside of their documents.

    Args:
        corpus: The chunks.
        ids: Which of them, `MISSING` where there is none.
        shifts: Tokens from the begin of each, above ``-chunk_size`` and below twice it.

    Returns:
        Token ids, -1 outside of a document.
    """
    size = corpus.chunk_size
    before = np.where(ids > 0, ids - 1, MISSING)
    around = [np.where(corpus.continuations(before) == ids, before, MISSING), ids]
    for _ in range(3):
        around.append(corpus.continuations(around[-1]))
    wide = np.concatenate([corpus.tokens(each) for each in around], axis=-1)
    places = (size + shifts)[..., None] + np.arange(2 * size)
    found = np.take_along_axis(wide, places, axis=-1)
    return np.where((ids >= 0)[..., None], found, NO_TOKEN)
