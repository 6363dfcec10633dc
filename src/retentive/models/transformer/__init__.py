"""The baseline: the decoder with attention."""

from retentive.models.transformer.config import TransformerConfig
from retentive.models.transformer.model import Transformer
from retentive.models.transformer.presets import PRESETS, transformer_small, transformer_tiny

__all__ = ["PRESETS", "Transformer", "TransformerConfig", "transformer_small", "transformer_tiny"]
