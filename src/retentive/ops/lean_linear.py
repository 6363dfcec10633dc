"""A projection of something that is quickly made again: for the gradient it keeps what that is made of."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

Make = Callable[[Tensor], Tensor]

_AT_ONCE = 1 << 19
"""Numbers that are made again at a time, by whole rows of the batch."""


def lean_linear(
    make: Make,
    source: Float[Tensor, "..."],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, "outputs"] | None,
) -> Float[Tensor, "..."]:
    """``linear(make(source), weight, bias)``; the backward pass calls ``make`` once more instead of keeping its result.

    So an activation is kept on one side only, and heads are not kept a second time side by side. Under autocast and in
    compiled code, which have rules of their own, it is the plain product.

    Args:
        make: A function without parameters and without randomness, of each row of the batch by itself, much cheaper
            than the product.
        source: What it is called with.
        weight: Of the product.
        bias: Added to it.
    """
    needs_gradient = torch.is_grad_enabled() and (source.requires_grad or weight.requires_grad)
    if not needs_gradient or torch.compiler.is_compiling() or torch.is_autocast_enabled(source.device.type):
        return linear(make(source), weight, bias)
    product: Tensor = _LeanLinear.apply(source, weight, bias, make)
    return product


class _LeanLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, weight: Tensor, bias: Tensor | None, make: Make) -> Tensor:
        ctx.save_for_backward(source, weight)
        ctx.make = make
        # The result comes first and what is made after it, in pieces: one freed whole, between what stays, is a hole in
        # the heap that nothing fills again.
        output = source.new_empty((source.shape[0], *make(source[:0]).shape[1:-1], weight.shape[0]))
        for piece in _pieces(source):
            made, flat = make(source[piece]).flatten(0, -2), output[piece].flatten(0, -2)
            if bias is None:
                torch.mm(made, weight.t(), out=flat)
            else:
                torch.addmm(bias, made, weight.t(), out=flat)
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        source, weight = ctx.saved_tensors
        needs_source, needs_weight, needs_bias, _ = ctx.needs_input_grad
        (grad,) = grad_outputs
        d_bias = grad.flatten(0, -2).sum(0) if needs_bias else None
        if torch.is_grad_enabled():  # gradients that are to be differentiated once more
            made = ctx.make(source)
            d_weight = _to_weight(grad, made) if needs_weight else None
            d_source = None
            if needs_source:
                (d_source,) = torch.autograd.grad(made, source, grad @ weight, create_graph=True)
            return d_source, d_weight, d_bias, None
        d_source = torch.empty_like(source) if needs_source else None
        d_weight = None
        for piece in _pieces(source):
            part = source[piece].detach().requires_grad_(needs_source)
            with torch.enable_grad():
                made = ctx.make(part)
            if needs_weight:
                d_part = _to_weight(grad[piece], made.detach())
                d_weight = d_part if d_weight is None else d_weight.add_(d_part)
            if d_source is not None:
                (d_source[piece],) = torch.autograd.grad(made, part, grad[piece] @ weight)
        return d_source, d_weight, d_bias, None


def _pieces(source: Tensor) -> list[slice]:
    """Rows of the first dimension, in pieces."""
    rows = source.shape[0]
    size = max(1, _AT_ONCE * rows // max(1, source.numel()))
    return [slice(begin, begin + size) for begin in range(0, rows, size)] or [slice(None)]


def _to_weight(grad: Tensor, made: Tensor) -> Tensor:
    """The gradient of the weight."""
    return grad.flatten(0, -2).t() @ made.flatten(0, -2)
