"""What the datastore asks of an index of vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from retentive.retrieval.blocks.vectors import VectorRows, Vectors
from retentive.retrieval.engines.engine import Engine
from retentive.retrieval.index.choice import IndexConfig
from retentive.retrieval.manifest import FolderRecord

Ranking = tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]
"""Scores, higher is nearer, and ids of chunks; -1 with score ``-inf`` where there are no more."""

Say = Callable[[str], object]
"""Prints a line for a person."""


@runtime_checkable
class NearestVectors(Protocol):
    """Something that finds the nearest vectors: an index in the store, or a server such as Milvus."""

    def search(self, queries: Vectors, k: int) -> Ranking:
        """The ``k`` nearest vectors of each query, by squared Euclidean distance; scores are its negative."""
        ...


@dataclass(frozen=True, slots=True)
class VectorsIdentity:
    """Which vectors a server holds: those of one version of one store.

    Attributes:
        corpus: Key of the text and its chunks (`Manifest.corpus_key`), which decides what an id means.
        encoder: Fingerprint of the encoder of the vectors.
    """

    corpus: str
    encoder: str


@runtime_checkable
class IdentifiedVectors(NearestVectors, Protocol):
    """An index outside of the store, which says whose vectors it holds."""

    @property
    def identity(self) -> VectorsIdentity:
        """Whose vectors it holds."""
        ...


@runtime_checkable
class BoundedVectors(NearestVectors, Protocol):
    """An index outside of the store that gives no more than some answers for one query."""

    @property
    def most_answers(self) -> int:
        """The largest number of answers."""
        ...


@runtime_checkable
class IndexKind(Protocol):
    """A way to index vectors: one entry of `INDEXES`.

    An index covers a run of blocks and is a sealed folder of the store (`sealed_folder`), so that it is whole or
    absent and can be verified.
    """

    folder: str
    """Folder of the store in which indexes of this kind lie; two kinds must have two folders."""

    def build(
        self, store: Path, vectors: VectorRows, config: IndexConfig, *, first_block: int, engine: Engine, say: Say
    ) -> FolderRecord:
        """Build the index of a run of blocks, or find the finished one.

        Args:
            store: Folder of the store.
            vectors: What is indexed; ids in the index are numbers of this run.
            config: How.
            first_block: Number of the run's first block in the store.
            engine: Where the work is done.
            say: Takes lines for a person; called only if the index is built and not found.
        """
        ...

    def open(self, store: Path, key: str, vectors: VectorRows) -> NearestVectors:
        """Open a finished index.

        Raises:
            DamagedFileError: If it cannot be read; the message names it and the cure.
        """
        ...


def best(scores: np.ndarray, ids: np.ndarray, k: int) -> Ranking:
    """The ``k`` highest of each row; of equal scores the earlier one."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def nothing(queries: int, k: int) -> Ranking:
    """No answers."""
    return np.full((queries, k), -np.inf, dtype=np.float32), np.full((queries, k), -1, dtype=np.int64)
