"""A linear layer that saves the source of its input, and computes the input again in the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from retentive.ops.precision import autocasts
from retentive.ops.tracing import is_traced

Make = Callable[[Tensor], Tensor]

Back = Callable[[Tensor, Tensor, Tensor], None]
"""Given the gradient of the output of ``make``, its input and memory for the gradient of that input, which is the first
argument's own where both are as wide: writes it there."""

_AT_ONCE = 1 << 20
"""Numbers that are read at a time on a CPU, where each row is made by itself."""


def lean_linear(
    make: Make,
    source: Float[Tensor, "..."],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, "outputs"] | None,
    back: Back,
) -> Float[Tensor, "..."]:
    """``linear(make(source), weight, bias)``, which saves ``source`` and calls ``make`` again in the backward pass.

    So the output of ``make``, such as an activation, is not kept for the gradient. Under autocast and in compiled code,
    it is the plain product.

    Args:
        make: A function of every row by itself, without parameters and without randomness, much cheaper than the
            product. It keeps the dtype.
        source: The argument of ``make``.
        weight: Of the product.
        bias: Added to it.
        back: The derivative of ``make``.
    """
    needs_gradient = torch.is_grad_enabled() and (source.requires_grad or weight.requires_grad)
    if not needs_gradient or source.dim() < 2 or is_traced() or autocasts(source.device):
        return linear(make(source), weight, bias)
    product: Tensor = _LeanLinear.apply(source, weight, bias, make, back)
    return product


class _LeanLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, weight: Tensor, bias: Tensor | None, make: Make, back: Back) -> Tensor:
        ctx.save_for_backward(source, weight)
        ctx.make, ctx.back = make, back
        # Allocate the output first: large temporaries that are freed between long-lived tensors fragment the heap.
        output = source.new_empty((*source.shape[:-1], weight.shape[0]))
        flat, rows = output.view(-1, weight.shape[0]), source.flatten(0, -2)
        for piece in _pieces(rows):
            _product(make(rows[piece]), weight, bias, flat[piece])
        return output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        needs_source, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        (grad,), is_again = grad_outputs, torch.is_grad_enabled()  # True: the gradients will be differentiated too
        rows = grad.flatten(0, -2)
        d_bias = rows.sum(0) if needs_bias else None
        if not is_again:
            return *_in_pieces(ctx, rows), d_bias, None, None
        source, weight = ctx.saved_tensors
        made: Tensor = ctx.make(source)
        d_source = None
        if needs_source:
            d_made = (rows @ weight).view_as(made)
            (d_source,) = torch.autograd.grad(made, source, d_made, create_graph=True)
        return d_source, rows.t() @ made.flatten(0, -2) if needs_weight else None, d_bias, None, None


def _in_pieces(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the source and the weight, computed for some rows at a time to save memory."""
    needs_source, needs_weight, *_ = ctx.needs_input_grad
    source, weight = ctx.saved_tensors
    rows, d_weight = source.flatten(0, -2), None
    d_rows = torch.empty_like(rows, memory_format=torch.contiguous_format) if needs_source else None
    for piece in _pieces(rows):
        if needs_weight:
            made = ctx.make(rows[piece])
            d_weight = grad[piece].t() @ made if d_weight is None else d_weight.addmm_(grad[piece].t(), made)
        if d_rows is not None:
            into = d_rows[piece]
            d_made = into if weight.shape[1] == into.shape[1] else into.new_empty(into.shape[0], weight.shape[1])
            torch.mm(grad[piece], weight, out=d_made)
            ctx.back(d_made, rows[piece], into)
    return None if d_rows is None else d_rows.view(source.shape), d_weight


def _product(made: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(made, weight.t(), out=out)
    else:
        torch.addmm(bias, made, weight.t(), out=out)


def _pieces(rows: Tensor) -> list[slice]:
    """Ranges of rows: one range if sums over several would be rounded to half precision, or if this is not a CPU."""
    size, count = max(1, _AT_ONCE // max(1, rows.shape[1])), max(1, rows.shape[0])
    if rows.device.type != "cpu" or rows.dtype not in (torch.float32, torch.float64):
        size = count
    return [slice(begin, begin + size) for begin in range(0, count, size)]
