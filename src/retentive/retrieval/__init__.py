"""Retrieval: a datastore of text in chunks, searched by words or vectors, with neighbours for RETRO.

The public names are loaded when they are first used: who asks a server needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retentive.retrieval.blocks.corpus import MISSING
    from retentive.retrieval.encoders import (
        ENCODERS,
        DenseEncoder,
        Encoder,
        HybridEncoder,
        LexicalEncoder,
        VectorEncoder,
        make_encoder,
    )
    from retentive.retrieval.engines.engine import Engine, LocalEngine
    from retentive.retrieval.index import INDEXES
    from retentive.retrieval.index.choice import IndexConfig
    from retentive.retrieval.neighbours.table import NeighbourConfig, NeighbourTable
    from retentive.retrieval.rerankers import CrossEncoder, LateInteraction, Reranker
    from retentive.retrieval.search.queries import Neighbours
    from retentive.retrieval.store import Datastore

_HOMES = {
    "ENCODERS": "retentive.retrieval.encoders",
    "INDEXES": "retentive.retrieval.index",
    "MISSING": "retentive.retrieval.blocks.corpus",
    "CrossEncoder": "retentive.retrieval.rerankers",
    "Datastore": "retentive.retrieval.store",
    "DenseEncoder": "retentive.retrieval.encoders",
    "Encoder": "retentive.retrieval.encoders",
    "Engine": "retentive.retrieval.engines.engine",
    "HybridEncoder": "retentive.retrieval.encoders",
    "IndexConfig": "retentive.retrieval.index.choice",
    "LateInteraction": "retentive.retrieval.rerankers",
    "LexicalEncoder": "retentive.retrieval.encoders",
    "LocalEngine": "retentive.retrieval.engines.engine",
    "NeighbourConfig": "retentive.retrieval.neighbours.table",
    "NeighbourTable": "retentive.retrieval.neighbours.table",
    "Neighbours": "retentive.retrieval.search.queries",
    "Reranker": "retentive.retrieval.rerankers",
    "VectorEncoder": "retentive.retrieval.encoders",
    "make_encoder": "retentive.retrieval.encoders",
}

__all__ = [
    "ENCODERS",
    "INDEXES",
    "MISSING",
    "CrossEncoder",
    "Datastore",
    "DenseEncoder",
    "Encoder",
    "Engine",
    "HybridEncoder",
    "IndexConfig",
    "LateInteraction",
    "LexicalEncoder",
    "LocalEngine",
    "NeighbourConfig",
    "NeighbourTable",
    "Neighbours",
    "Reranker",
    "VectorEncoder",
    "make_encoder",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'retentive.retrieval' has no attribute {name!r}.")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
