"""How much of a chunk could be copied: runs of tokens that it shares with its neighbours (arXiv:2112.04426, 2.6)."""

import numpy as np
from jaxtyping import Float64, Int64

from retentive.config_types import check_count
from retentive.retrieval import Datastore
from retentive.retrieval.neighbours.common_runs import common_runs


def longest_common_runs(
    chunks: Int64[np.ndarray, "chunks length"], passages: Int64[np.ndarray, "chunks k width"]
) -> Int64[np.ndarray, "chunks"]:
    """Tokens of the longest run that each chunk has in common with one of its passages.

    Args:
        chunks: Token ids, below 0 where there is none.
        passages: What each chunk is compared with; below 0 where there is nothing.
    """
    return common_runs(chunks, passages).lengths.max(1, initial=0)


def overlaps(
    chunks: Int64[np.ndarray, "chunks length"], database: Datastore, *, k: int = 10, at_once: int = 512
) -> Float64[np.ndarray, "chunks"]:
    """The longest run that each chunk shares with its ``k`` nearest chunks in a datastore, as a share of its length.

    Neighbours are read with what follows them, as a model reads them.

    Args:
        chunks: Token ids, -1 after the end of a shorter one.
        database: The datastore that the model was trained with, and reads.
        k: Neighbours that are compared.
        at_once: Chunks that are looked for together. Changes memory, never results.

    Raises:
        ValueError: If a number is below 1.
    """
    for name, number in (("k", k), ("at_once", at_once)):
        check_count(name, number)
    parts = [chunks[begin : begin + at_once] for begin in range(0, len(chunks), at_once)]
    runs = [longest_common_runs(part, database.search(part, k=k).tokens) for part in parts]
    return np.concatenate([np.zeros(0, np.int64), *runs]) / chunks.shape[1]


def bits_per_byte_up_to(
    share: float,
    overlap: Float64[np.ndarray, "chunks"],
    nats: Float64[np.ndarray, "chunks"],
    num_bytes: Int64[np.ndarray, "chunks"],
) -> float | None:
    """Bits per byte over the chunks whose overlap is at most ``share``; None if they have no bytes.

    With a share of 1 these are all chunks.
    """
    chosen = overlap <= share
    if not num_bytes[chosen].sum():
        return None
    return float(nats[chosen].sum() / np.log(2) / num_bytes[chosen].sum())
