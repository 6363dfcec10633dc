"""The gate of a feed-forward layer, ``activation(a) * b``, with a lean backward pass."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.activation import ACTIVATIONS, Activation
from retentive.ops.lean.activations import activation_backward


def gated(inner: Float[Tensor, "*batch both_branches"], activation: Activation) -> Float[Tensor, "*batch half_of_them"]:
    """``activation(a) * b`` of the two halves of the last dimension, ``a`` first (arXiv:2002.05202).

    The backward pass writes the gradients of both halves into one tensor; concatenating two tensors would copy them
    once more.
    """
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and inner.requires_grad):
        activated, linear = inner.chunk(2, -1)
        return ACTIVATIONS[activation](activated) * linear
    product: Tensor = _Gated.apply(inner, activation)
    return product


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inner: Tensor, activation: Activation) -> Tensor:
        raw, linear = inner.chunk(2, -1)
        ctx.activation = activation
        activated = ACTIVATIONS[activation](raw)
        ctx.save_for_backward(inner, activated)
        return activated * linear

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        inner, activated = ctx.saved_tensors
        raw, linear = inner.chunk(2, -1)
        both = torch.empty_like(inner, memory_format=torch.contiguous_format)
        d_raw, d_linear = both.chunk(2, -1)
        torch.mul(grad, activated, out=d_linear)
        torch.mul(grad, linear, out=d_raw)
        activation_backward(d_raw, raw, ctx.activation)
        return both, None
