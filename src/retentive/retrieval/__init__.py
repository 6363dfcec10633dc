"""Retrieval: a datastore of text in chunks, searched by words or vectors, with neighbours for RETRO."""

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
