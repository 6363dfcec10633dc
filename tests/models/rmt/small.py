"""Small recurrent memories for the tests here."""

from typing import Any

import torch
from torch import Tensor

from retentive.models.retnet import RetNetConfig
from retentive.models.rmt import RecurrentMemoryConfig, RecurrentMemoryTransformer
from retentive.models.transformer import TransformerConfig

VOCAB = 23
RETNET = RetNetConfig(vocab_size=VOCAB, hidden_size=16, num_layers=2, num_heads=2, chunk_size=4)


def small_backbone(**changes: Any) -> TransformerConfig:
    return TransformerConfig(**{"vocab_size": VOCAB, "hidden_size": 16, "num_layers": 2, "num_heads": 4, **changes})


def small_config(*, backbone: Any = None, **changes: Any) -> RecurrentMemoryConfig:
    backbone = small_backbone() if backbone is None else backbone
    return RecurrentMemoryConfig(**{"backbone": backbone, "segment_length": 5, "num_memory_tokens": 2, **changes})


def small_rmt(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> RecurrentMemoryTransformer:
    """A model with weights large enough that every part of it shows in the logits."""
    torch.manual_seed(seed)
    model = RecurrentMemoryTransformer(small_config(**changes)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def random_tokens(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))
