"""RETRO: a decoder that reads the neighbours of what it has read."""

from retentive.models.retro.config import RetroConfig
from retentive.models.retro.model import Retro
from retentive.models.retro.presets import (
    PRESETS,
    retro_1_5b,
    retro_7_5b,
    retro_172m,
    retro_425m,
    retro_over,
    retro_small,
    retro_tiny,
)
from retentive.models.retro.retrofit import retrofit, trainable_share
from retentive.models.retro.state import RetroState, begin_chunks_late, end_chunks_every

__all__ = [
    "PRESETS",
    "Retro",
    "RetroConfig",
    "RetroState",
    "begin_chunks_late",
    "end_chunks_every",
    "retro_1_5b",
    "retro_7_5b",
    "retro_172m",
    "retro_425m",
    "retro_over",
    "retro_small",
    "retro_tiny",
    "retrofit",
    "trainable_share",
]
