"""Small recurrent memories for the tests here."""

from typing import Any

import torch

from models.small import VOCAB as VOCAB
from models.small import random_tokens as random_tokens
from models.small import small_transformer, with_large_weights
from retentive.models.retnet import RetNetConfig
from retentive.models.rmt import RecurrentMemoryConfig, RecurrentMemoryTransformer
from retentive.models.transformer import TransformerConfig

RETNET = RetNetConfig(vocab_size=VOCAB, hidden_size=16, num_layers=2, num_heads=2, chunk_size=4)


def small_backbone(**changes: Any) -> TransformerConfig:
    return small_transformer(**{"num_layers": 2, **changes})


def small_config(*, backbone: Any = None, **changes: Any) -> RecurrentMemoryConfig:
    backbone = small_backbone() if backbone is None else backbone
    return RecurrentMemoryConfig(**{"backbone": backbone, "segment_length": 5, "num_memory_tokens": 2, **changes})


def small_rmt(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> RecurrentMemoryTransformer:
    return with_large_weights(lambda: RecurrentMemoryTransformer(small_config(**changes)), seed, dtype)
