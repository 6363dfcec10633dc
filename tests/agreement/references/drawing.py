"""What the references share: weights, tokens, and how they are handed over."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

EPSILONS = (1e-12, 1e-6)
VOCAB, TIME = 19, 24


def drawn(model: nn.Module, scale: float = 0.5) -> nn.Module:
    """Fill a model with weights large enough that every part of it shows in the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if parameter.ndim == 1 else scale * parameter.shape[-1] ** -0.5
            center = float(parameter.ndim == 1 and not name.endswith("bias"))  # norms
            parameter.copy_(center + spread * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens() -> Tensor:
    """Two rows of token ids."""
    return torch.randint(VOCAB, (2, TIME), generator=torch.Generator().manual_seed(1))


def case(settings: dict[str, Any], model: nn.Module, logits: dict[str, Callable[[], Tensor]]) -> dict[str, Any]:
    """A model as `freeze` keeps it: settings, weights, and logits by the form that gave them."""
    with torch.no_grad():
        found = {name: compute().float().clone() for name, compute in logits.items()}
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return {"settings": settings, "weights": weights, "tokens": tokens(), "logits": found}
