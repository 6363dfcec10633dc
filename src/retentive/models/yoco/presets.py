"""Small sizes for CPUs, of about as many parameters as RetNet's of the same name."""

from retentive.models.yoco.config import YocoConfig


def yoco_tiny(vocab_size: int = 257) -> YocoConfig:
    """Under a million parameters: trains on a laptop in minutes, on bytes."""
    return YocoConfig(vocab_size=vocab_size, hidden_size=128, num_layers=4, num_heads=2)


def yoco_small(vocab_size: int = 8192) -> YocoConfig:
    """About ten million parameters, most of them in the blocks: an hour or so on a laptop."""
    return YocoConfig(vocab_size=vocab_size, hidden_size=320, num_layers=6, num_heads=5, tie_embeddings=True)


PRESETS = {"tiny": yoco_tiny, "small": yoco_small}
"""Size -> preset, the default of the command line first."""
