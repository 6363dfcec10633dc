"""Recurrent memory: a decoder that carries memory tokens from segment to segment."""

from retentive.models.rmt.around import with_memory
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.model import RecurrentMemoryTransformer
from retentive.models.rmt.presets import PRESETS, rmt_small, rmt_tiny
from retentive.models.rmt.state import RecurrentMemoryState

__all__ = [
    "PRESETS",
    "RecurrentMemoryConfig",
    "RecurrentMemoryState",
    "RecurrentMemoryTransformer",
    "rmt_small",
    "rmt_tiny",
    "with_memory",
]
