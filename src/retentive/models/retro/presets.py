"""Sizes: the paper's (table 11 of arXiv:2112.04426), and small ones for CPUs.

The paper counts parameters without embeddings, and with the projections of its relative positions (Transformer-XL),
which rotation does without: one of ``hidden_size`` to all heads in each attention. Its counts come out with them, and
with every third layer from the 6th reading neighbours; for the two largest, its table lists these layers from the 9th.
"""

import math
from dataclasses import replace

from retentive.config_types import check_kind
from retentive.models.protocol import FamilyConfig, ModelConfig
from retentive.models.registry import config_class
from retentive.models.retro.config import RetroConfig
from retentive.renaming import renamed


def chunk_tokens(vocab_size: int) -> int:
    """Tokens of about 60 bytes of text, by how long the tokens of such a vocabulary are.

    A small model copies from chunks of that length; shorter ones are more chances to read again what is there now.
    """
    return next(tokens for tokens, below in ((64, 300), (32, 1500), (16, math.inf)) if vocab_size < below)


def _around(
    backbone: FamilyConfig, cross_layers: tuple[int, ...], width: int, heads: int, chunk_size: int | None = None
) -> RetroConfig:
    """A RETRO with chunks of about 60 bytes, after an end-of-text token, and an encoder of two layers of this width.

    With one layer an encoder's token cannot know which token stood before it, and copying is not learned.
    """
    return RetroConfig(
        backbone=backbone,
        chunk_size=chunk_tokens(backbone.decoder.embedding.vocab_size) if chunk_size is None else chunk_size,
        cross_layers=cross_layers,
        encoder_hidden_size=width,
        encoder_num_layers=2,
        encoder_num_heads=heads,
        residual=backbone.decoder.residual,
        chunk_offset=1,
    )


def _published(vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, head_dim: int) -> RetroConfig:
    """A size of the paper: two encoder layers of 896 channels, neighbours read in every third layer from the 6th."""
    backbone = config_class("transformer")(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        head_dim=head_dim,
    )
    made = _around(backbone, tuple(range(6, num_layers + 1, 3)), width=896, heads=16, chunk_size=64)
    return replace(made, cross_head_dim=head_dim, encoder_head_dim=64)


def retro_172m(vocab_size: int = 128_000) -> RetroConfig:
    """The paper's 172 million: 12 layers of 896 channels; 500 million with its three tables of 128,000 tokens."""
    return _published(vocab_size, 896, 12, 16, 64)


def retro_425m(vocab_size: int = 128_000) -> RetroConfig:
    """The paper's 425 million: 12 layers of 1536 channels; 895 million with its tables."""
    return _published(vocab_size, 1536, 12, 12, 128)


def retro_1_5b(vocab_size: int = 128_000) -> RetroConfig:
    """The paper's 1.5 billion: 24 layers of 2048 channels; 1.96 billion with its tables."""
    return _published(vocab_size, 2048, 24, 16, 128)


def retro_7_5b(vocab_size: int = 128_000) -> RetroConfig:
    """The paper's 7.5 billion: 32 layers of 4096 channels; 8 billion with its tables."""
    return _published(vocab_size, 4096, 32, 32, 128)


def retro_tiny(vocab_size: int = 257) -> RetroConfig:
    """About 1.5 million parameters: trains on a laptop in minutes, on bytes or a BPE of some hundred ids."""
    backbone = config_class("transformer")(vocab_size=vocab_size, hidden_size=128, num_layers=4, num_heads=2)
    return _around(backbone, (2, 4), width=128, heads=2)


def retro_small(vocab_size: int = 8192) -> RetroConfig:
    """About fourteen million parameters, most of them in the blocks, around a RetNet: a state of constant size."""
    backbone = config_class("retnet")(
        vocab_size=vocab_size, hidden_size=320, num_layers=6, num_heads=5, tie_embeddings=True
    )
    return replace(_around(backbone, (3, 6), width=320, heads=5), share_embeddings=True)


@renamed(base="backbone")
def retro_over(backbone: FamilyConfig) -> RetroConfig:
    """A RETRO around any decoder, trained or not: an encoder of two layers, at most as wide as the paper's.

    Up to that width the encoder's layers have the shape of the decoder's, so that RETROfit can start from those.
    Neighbours are read in every third layer from the 6th, or in every second one of a decoder with fewer than 9.
    """
    check_kind("backbone", backbone, ModelConfig, cure="give a config, such as TransformerConfig(**values)")
    decoder = backbone.decoder
    layers = range(6, decoder.num_layers + 1, 3) if decoder.num_layers >= 9 else range(2, decoder.num_layers + 1, 2)
    hidden, heads = decoder.embedding.hidden_size, decoder.num_heads
    cross_layers = tuple(layers) or (1,)
    if hidden > 896:
        return _around(backbone, cross_layers, width=896, heads=16)
    inner = decoder.feed_forward
    return replace(
        _around(backbone, cross_layers, width=hidden, heads=heads),
        encoder_intermediate_size=inner.intermediate_size,
        activation=inner.activation,
        gated=inner.gated,
        norm=decoder.norm.kind,
        norm_epsilon=decoder.norm.epsilon,
    )


PRESETS = {
    "tiny": retro_tiny,
    "small": retro_small,
    "172m": retro_172m,
    "425m": retro_425m,
    "1_5b": retro_1_5b,
    "7_5b": retro_7_5b,
}
"""Size -> preset, the default of the command line first."""
