"""Small RETROs for the tests here."""

from typing import Any

import torch
from torch import Tensor

from models.small import VOCAB as VOCAB
from models.small import random_tokens as random_tokens
from models.small import small_transformer, with_large_weights
from retentive.models.retnet import RetNetConfig
from retentive.models.retro import Retro, RetroConfig
from retentive.models.transformer import TransformerConfig

CHUNK = 4
RETNET = RetNetConfig(vocab_size=VOCAB, hidden_size=16, num_layers=3, num_heads=2, chunk_size=4)
DEEPNORM = {"residual": "deepnorm", "norm": "gated_rms_norm", "share_embeddings": True}


def small_backbone(**changes: Any) -> TransformerConfig:
    return small_transformer(**{"num_layers": 3, **changes})


def small_config(*, backbone: Any = None, **changes: Any) -> RetroConfig:
    sizes = {
        "backbone": small_backbone() if backbone is None else backbone,
        "chunk_size": CHUNK,
        "cross_layers": (2, 3),
        "encoder_hidden_size": 12,
        "encoder_num_layers": 2,
        "encoder_num_heads": 3,
    }
    return RetroConfig(**{**sizes, **changes})


def small_retro(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> Retro:
    return with_large_weights(lambda: Retro(small_config(**changes)), seed, dtype)


def random_neighbours(batch: int, chunks: int, k: int = 2, length: int = 2 * CHUNK, seed: int = 0) -> Tensor:
    """Neighbours, some with padding at the end, the first of the first row missing."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (batch, chunks, k, length), generator=generator)
    lengths = torch.randint(1, length + 1, (batch, chunks, k, 1), generator=generator)
    ids = ids.where(torch.arange(length) < lengths, -1)
    if chunks:
        ids[0, 0, 0] = -1
    return ids
