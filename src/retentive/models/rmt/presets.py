"""Small sizes for CPUs, around the Transformers of the same names."""

from retentive.models.registry import config_class
from retentive.models.rmt.config import RecurrentMemoryConfig


def rmt_tiny(vocab_size: int = 257) -> RecurrentMemoryConfig:
    """Under a million parameters: trains on a laptop in minutes, on bytes."""
    backbone = config_class("transformer")(vocab_size=vocab_size, hidden_size=128, num_layers=4, num_heads=2)
    return RecurrentMemoryConfig(backbone=backbone, segment_length=128, num_memory_tokens=8)


def rmt_small(vocab_size: int = 8192) -> RecurrentMemoryConfig:
    """About ten million parameters, most of them in the blocks: an hour or so on a laptop."""
    backbone = config_class("transformer")(
        vocab_size=vocab_size, hidden_size=320, num_layers=6, num_heads=5, tie_embeddings=True
    )
    return RecurrentMemoryConfig(backbone=backbone, segment_length=256, num_memory_tokens=16)


PRESETS = {"tiny": rmt_tiny, "small": rmt_small}
"""Size -> preset, the default of the command line first."""
