"""Hybrid: the decoder with a mixer of its own in each block."""

from retentive.models.hybrid.config import HybridConfig
from retentive.models.hybrid.model import Hybrid
from retentive.models.hybrid.presets import PRESETS, hybrid_small, hybrid_tiny

__all__ = ["PRESETS", "Hybrid", "HybridConfig", "hybrid_small", "hybrid_tiny"]
