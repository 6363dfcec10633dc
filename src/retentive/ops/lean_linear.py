"""A projection of something that is quickly made again: for the gradient it keeps what that is made of."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

Make = Callable[[Tensor], Tensor]


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
        make: A function without parameters and without randomness, much cheaper than the product.
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
        return linear(make(source), weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        source, weight = ctx.saved_tensors
        needs_source, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad = grad_outputs[0].flatten(0, -2)
        is_again = torch.is_grad_enabled()  # gradients that are to be differentiated once more
        if not is_again:
            source = source.detach().requires_grad_(needs_source)
        with torch.enable_grad():
            made = ctx.make(source)
        flat = made if is_again else made.detach()
        d_weight = grad.t() @ flat.flatten(0, -2) if needs_weight else None
        d_bias = grad.sum(0) if needs_bias else None
        d_source = None
        if needs_source:
            d_made = (grad @ weight).view_as(made)
            (d_source,) = torch.autograd.grad(made, source, d_made, create_graph=is_again)
        return d_source, d_weight, d_bias, None
