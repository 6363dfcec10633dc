"""All indexes of vectors in a store, searched as one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from retentive.errors import MismatchError
from retentive.retrieval.blocks.sealed_folder import check_folder
from retentive.retrieval.blocks.vectors import VectorRows, Vectors
from retentive.retrieval.index import INDEXES
from retentive.retrieval.index.protocol import BoundedVectors, IndexKind, NearestVectors, Ranking, best, nothing
from retentive.retrieval.manifest import FolderRecord

AT_ONCE = 1 << 14
"""Vectors that are compared one by one at once."""


class VectorIndex:
    """All vector indexes of a store as one: the first one, and one for each addition of documents.

    Args:
        folder: Folder of the store.
        records: Their records.
        vectors: All vectors of the store.
    """

    def __init__(self, folder: Path, records: Sequence[FolderRecord], vectors: VectorRows) -> None:
        self._parts: list[NearestVectors] = []
        self._offsets: list[int] = []
        for record in records:
            check_folder(folder, record)
            part = vectors.part(record.first_block, record.num_blocks)
            self._parts.append(index_kind_of(record).open(folder, record.key, part))
            self._offsets.append(int(vectors.firsts[record.first_block]))

    def search(self, queries: Vectors, k: int) -> Ranking:
        """The ``k`` nearest vectors of each query, over all parts."""
        found = [part.search(queries, k) for part in self._parts]
        if not found:
            return nothing(len(queries), k)
        ids = [np.where(ids >= 0, ids + offset, -1) for (_, ids), offset in zip(found, self._offsets, strict=True)]
        return best(np.concatenate([scores for scores, _ in found], axis=1), np.concatenate(ids, axis=1), k)


class AnyNumberOfAnswers:
    """An index that gives a bounded number of answers; where more are wanted, all vectors are compared one by one.

    Args:
        index: The index.
        rows: The vectors that it has.
    """

    def __init__(self, index: BoundedVectors, rows: VectorRows) -> None:
        self._index = index
        self._rows = rows

    def search(self, queries: Vectors, k: int) -> Ranking:
        """The ``k`` nearest vectors of each query."""
        if k <= self._index.most_answers:
            return self._index.search(queries, k)
        return one_by_one(self._rows, np.arange(len(self._rows)), queries, k)


def one_by_one(rows: VectorRows, ids: Int64[np.ndarray, "_"], queries: Vectors, k: int) -> Ranking:
    """The ``k`` nearest of some vectors to each query, by comparing every one of them."""
    ranking = nothing(len(queries), k)
    for begin in range(0, len(ids), AT_ONCE):
        part = ids[begin : begin + AT_ONCE]
        stored = rows.gather(part)
        distances = np.square(stored).sum(1) - 2 * queries @ stored.T + np.square(queries).sum(1, keepdims=True)
        scores = np.concatenate([ranking[0], -distances.astype(np.float32)], axis=1)
        ranking = best(scores, np.concatenate([ranking[1], np.broadcast_to(part, distances.shape)], axis=1), k)
    return ranking


class LiveVectors:
    """An index without the vectors of removed chunks, as if they had never been in it.

    They are left out inside the search, before ranks are counted.

    Args:
        index: The index.
        removed: Ids of removed chunks, sorted.
        rows: Number of vectors, removed ones included.
    """

    def __init__(self, index: NearestVectors, removed: Int64[np.ndarray, "_"], rows: int) -> None:
        self._index = index
        self._removed = removed
        self._rows = rows

    def search(self, queries: Vectors, k: int) -> Ranking:
        """The ``k`` nearest vectors of each query that were not removed."""
        wanted = min(k + min(len(self._removed), k), self._rows)
        while True:
            scores, ids = self._index.search(queries, max(wanted, k))
            gone = np.isin(ids, self._removed) | (ids < 0)
            enough = (~gone).sum(axis=1).min(initial=k) >= k
            if enough or wanted >= self._rows:
                found_scores, found = best(np.where(gone, np.float32(-np.inf), scores), np.where(gone, -1, ids), k)
                return found_scores, found
            wanted = min(4 * wanted, self._rows)


def index_kind_of(record: FolderRecord) -> IndexKind:
    """The kind of index that made a folder.

    Raises:
        MismatchError: If none of `INDEXES` did.
    """
    for kind in INDEXES.values():
        if kind.folder == record.kind:
            return kind
    folders = ", ".join(repr(kind.folder) for kind in INDEXES.values())
    raise MismatchError(
        f"the store has an index in folder {record.kind!r}, but the known ones lie in {folders}: add its kind to "
        "retentive.retrieval.index.INDEXES before the store is opened."
    )
