"""Sizes: the paper's (table 2 of arXiv:2307.08621: heads of 256 key and 512 value channels), and small ones for CPUs.

The paper does not give its vocabulary; with 32,000 ids the counts are the ones in the names.
"""

from retentive.models.retnet.config import RetNetConfig


def retnet_1_3b(vocab_size: int = 32_000) -> RetNetConfig:
    """1.3 billion parameters: 24 blocks of 2048 channels."""
    return RetNetConfig(vocab_size=vocab_size, hidden_size=2048, num_layers=24, num_heads=8)


def retnet_2_7b(vocab_size: int = 32_000) -> RetNetConfig:
    """2.7 billion parameters: 32 blocks of 2560 channels."""
    return RetNetConfig(vocab_size=vocab_size, hidden_size=2560, num_layers=32, num_heads=10)


def retnet_6_7b(vocab_size: int = 32_000) -> RetNetConfig:
    """6.7 billion parameters: 32 blocks of 4096 channels."""
    return RetNetConfig(vocab_size=vocab_size, hidden_size=4096, num_layers=32, num_heads=16)


def retnet_tiny(vocab_size: int = 257) -> RetNetConfig:
    """Under a million parameters: trains on a laptop in minutes, on bytes."""
    return RetNetConfig(vocab_size=vocab_size, hidden_size=128, num_layers=4, num_heads=2)


def retnet_small(vocab_size: int = 8192) -> RetNetConfig:
    """About ten million parameters, most of them in the blocks: an hour or so on a laptop."""
    return RetNetConfig(vocab_size=vocab_size, hidden_size=320, num_layers=6, num_heads=5, tie_embeddings=True)


PRESETS = {
    "tiny": retnet_tiny,
    "small": retnet_small,
    "1_3b": retnet_1_3b,
    "2_7b": retnet_2_7b,
    "6_7b": retnet_6_7b,
}
"""Size -> preset, the default of the command line first."""
