"""What the small models of several families' tests have in common."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from retentive.models.transformer import TransformerConfig

VOCAB = 23
Model = TypeVar("Model", bound=nn.Module)


def small_transformer(**changes: Any) -> TransformerConfig:
    return TransformerConfig(**{"vocab_size": VOCAB, "hidden_size": 16, "num_heads": 4, **changes})


def with_large_weights(make: Callable[[], Model], seed: int, dtype: torch.dtype) -> Model:
    """A model with weights large enough that every part of it shows in the logits."""
    torch.manual_seed(seed)
    model = make().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def random_tokens(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))
