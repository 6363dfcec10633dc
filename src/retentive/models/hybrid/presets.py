"""Small sizes for CPUs, of about as many parameters as RetNet's of the same name."""

from retentive.models.hybrid.config import HybridConfig


def hybrid_tiny(vocab_size: int = 257) -> HybridConfig:
    """Under a million parameters: trains on a laptop in minutes, on bytes."""
    pattern = ("retention", "retention", "retention", "attention")
    return HybridConfig(vocab_size=vocab_size, hidden_size=128, num_layers=4, num_heads=2, pattern=pattern)


def hybrid_small(vocab_size: int = 8192) -> HybridConfig:
    """About ten million parameters, most of them in the blocks: gated retention, and a window in every third block."""
    pattern = ("gated_retention", "gated_retention", "window_attention")
    return HybridConfig(
        vocab_size=vocab_size,
        hidden_size=320,
        num_layers=6,
        num_heads=5,
        pattern=pattern,
        window=256,
        tie_embeddings=True,
    )


PRESETS = {"tiny": hybrid_tiny, "small": hybrid_small}
"""Size -> preset, the default of the command line first."""
