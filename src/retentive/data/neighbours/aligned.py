"""Neighbours that are shifted so that what they have in common with a chunk stands at the chunk's own place.

A model that reads "what stands at my place, in the passage that has this text" learns to copy by place, which is
learned sooner than to copy what followed the same words elsewhere. It helps where texts are revisions of one another.
"""

import numpy as np
from jaxtyping import Bool, Int64

from retentive.retrieval import NeighbourTable
from retentive.retrieval.neighbours.common_runs import common_runs, shifted
from retentive.retrieval.neighbours.near_duplicates import chunk_grams, jaccard


def aligned(
    table: NeighbourTable,
    ids: Int64[np.ndarray, "chunks"],
    chunks: Int64[np.ndarray, "chunks length"],
    samples: Int64[np.ndarray, "chunks"],
    texts: dict[int, Int64[np.ndarray, "_ length"]],
    *,
    copies: bool = False,
) -> Int64[np.ndarray, "chunks k width"]:
    """Neighbours of chunks, each shifted so that the longest common run stands where the chunk has it.

    What a table leaves out is left out again: a neighbour that would then be a copy of a chunk of the same document in
    one of its halves, or a near copy where the table leaves those out, stays where it is. All of its text may be there
    all the same, at another place.

    Args:
        table: Their neighbours.
        ids: Chunks in the table.
        chunks: Their tokens.
        samples: The document that each chunk is of.
        texts: All whole chunks of each document.
        copies: Let copies be shifted too: what a revision leaves unchanged then stands at its own place.
    """
    found = table.ids(ids)
    plain = table.database.with_continuations(found)
    runs = common_runs(chunks, plain)
    moved = shifted(table.database, found, runs.shifts)
    stays = np.zeros(found.shape, dtype=np.bool_)
    for half in np.split(moved, 2, axis=-1):
        if not copies:
            stays |= _is_copy(half, samples, texts)
        if table.config.near_duplicates is not None:
            stays |= _is_near(half, chunks, table.config.near_duplicates)
            stays |= _is_near(half, _following(chunks, samples, texts), table.config.near_duplicates)
    return np.where(stays[..., None], plain, moved)


def _is_copy(
    half: Int64[np.ndarray, "chunks k length"],
    samples: Int64[np.ndarray, "chunks"],
    texts: dict[int, Int64[np.ndarray, "_ length"]],
) -> Bool[np.ndarray, "chunks k"]:
    known = {sample: {row.tobytes() for row in text} for sample, text in texts.items()}
    copies = [[row.tobytes() in known[int(sample)] for row in rows] for sample, rows in zip(samples, half, strict=True)]
    return np.array(copies, dtype=np.bool_).reshape(half.shape[:2])


def _following(
    chunks: Int64[np.ndarray, "chunks length"],
    samples: Int64[np.ndarray, "chunks"],
    texts: dict[int, Int64[np.ndarray, "_ length"]],
) -> Int64[np.ndarray, "chunks length"]:
    """The chunk after each one in its document; -1 after the last."""
    found = np.full_like(chunks, -1)
    for row, (sample, chunk) in enumerate(zip(samples.tolist(), chunks, strict=True)):
        text = texts[sample]
        place = np.flatnonzero((text == chunk).all(1))
        if len(place) and place[0] + 1 < len(text):
            found[row] = text[place[0] + 1]
    return found


def _is_near(
    half: Int64[np.ndarray, "chunks k length"], chunks: Int64[np.ndarray, "chunks length"], threshold: float
) -> Bool[np.ndarray, "chunks k"]:
    count, k, length = half.shape
    grams = chunk_grams(half.reshape(count * k, length)), chunk_grams(np.repeat(chunks, k, axis=0))
    return (jaccard(*grams) >= threshold).reshape(count, k)
