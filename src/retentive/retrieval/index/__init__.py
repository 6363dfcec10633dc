"""Indexes: the nearest chunks of a query, by words or by vectors.

`INDEXES` has every way to index vectors by the name that `IndexConfig.kind` takes. An index is added by a class with
the methods of `IndexKind` and an entry here; from outside the package,
``retentive.retrieval.index.INDEXES["mine"] = MyIndex()`` before a store is built or opened.
"""

from retentive.retrieval.index.faiss_build import FaissKind
from retentive.retrieval.index.protocol import IndexKind

INDEXES: dict[str, IndexKind] = {
    "faiss": FaissKind(),
}

__all__ = ["INDEXES", "IndexKind", "index_kind"]


def index_kind(name: str) -> IndexKind:
    """The way to index vectors that ``IndexConfig.kind`` names.

    Raises:
        ValueError: If there is no such kind.
    """
    if name not in INDEXES:
        raise ValueError(f"index.kind must be one of {', '.join(INDEXES)}, but is {name!r}.")
    return INDEXES[name]
