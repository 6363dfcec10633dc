"""A product that is written over memory which nothing else needs."""

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.tracing import is_traced


def may_write_over() -> bool:
    """Whether a tensor that the caller has just made may be overwritten.

    With gradients its values may be kept for the backward pass; compilers, `torch.func` and forward-mode
    differentiation follow operations that write nowhere.
    """
    return not torch.is_grad_enabled() and not is_traced()


def times_heads(
    fresh: Float[Tensor, "*tokens values"], heads: Float[Tensor, "*tokens heads value_dim"]
) -> Float[Tensor, "*tokens values"]:
    """Product of channels with heads side by side.

    Args:
        fresh: Made by the caller for this product: overwritten where it may be, as flattening a prompt's heads copies
            them.
        heads: Each head's channels, of which the last dimensions are flattened.
    """
    if not may_write_over():
        return fresh * heads.flatten(-2).to(fresh.dtype)
    fresh.view(heads.shape).mul_(heads)
    return fresh
