"""Vectors of chunks on disk: one block of vectors for each block of chunks, read by id."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from retentive.retrieval.blocks.block import key_of, read_block

VECTORS = "vectors"

Vectors = Float32[np.ndarray, "rows dimension"]


def vector_key(encoder_fingerprint: str, chunk_key: str) -> str:
    """The key of the vectors of one block of chunks."""
    return key_of(VECTORS, encoder_fingerprint, chunk_key)


class VectorRows:
    """The vectors of a run of blocks, numbered from 0 at its first chunk.

    Args:
        folder: Folder of the store.
        keys: Keys of the blocks of vectors.
        rows: Number of vectors in each.
        dimension: Numbers in a vector.
    """

    def __init__(self, folder: Path, keys: Sequence[str], rows: Sequence[int], dimension: int) -> None:
        self.folder = folder
        self.keys = tuple(keys)
        self.dimension = dimension
        self.firsts = np.cumsum([0, *rows], dtype=np.int64)

    def __len__(self) -> int:
        """Number of vectors."""
        return int(self.firsts[-1])

    def block(self, number: int) -> Vectors:
        """All vectors of one block, memory-mapped."""
        return read_block(self.folder, VECTORS, self.keys[number]).arrays["vectors"]

    def blocks(self) -> Iterator[Vectors]:
        """The vectors of each block, in order."""
        for number in range(len(self.keys)):
            yield self.block(number)

    def gather(self, ids: Int64[np.ndarray, "_"]) -> Vectors:
        """Vectors by number, in any order."""
        found = np.empty((len(ids), self.dimension), dtype=np.float32)
        blocks = np.searchsorted(self.firsts, ids, side="right") - 1
        for block in np.unique(blocks).tolist():
            places = np.flatnonzero(blocks == block)
            found[places] = self.block(block)[ids[places] - self.firsts[block]]
        return found

    def sample_ids(self, count: int, seed: int) -> Int64[np.ndarray, "_"]:
        """Numbers of a random sample without repetition, from all vectors; the same seed gives the same sample."""
        chosen = np.random.default_rng(seed).choice(len(self), size=min(count, len(self)), replace=False)
        return np.sort(chosen).astype(np.int64)

    def part(self, first: int, count: int) -> "VectorRows":
        """The vectors of ``count`` blocks from block ``first`` on."""
        rows = np.diff(self.firsts)[first : first + count]
        return VectorRows(self.folder, self.keys[first : first + count], rows.tolist(), self.dimension)
