"""A projection to heads that are rotated in place, without a copy of the unrotated ones."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from retentive.ops.precision import autocasts
from retentive.ops.rotary import RotaryPairs, rotate


def rotated_linear(
    x: Float[Tensor, "batch time inputs"],
    weight: Float[Tensor, "outputs inputs"],
    cos: Float[Tensor, "#batch time pairs"],
    sin: Float[Tensor, "#batch time pairs"],
    *,
    pairs: RotaryPairs = "interleaved",
) -> Float[Tensor, "batch heads time dim"]:
    """``rotate`` applied to the heads of ``linear(x, weight)``.

    It rotates in place if pairs are interleaved, the dtype is that of the tables, and the call is neither compiled nor
    under autocast; otherwise it makes a copy.

    Args:
        x: What is projected.
        weight: To heads side by side, each of twice as many channels as there are pairs.
        cos: From `retentive.ops.rotary.rotary_tables`.
        sin: The same.
        pairs: As in `retentive.ops.rotary.rotate`.
    """
    dim = 2 * cos.shape[-1]
    is_exact = x.dtype is weight.dtype is cos.dtype and not autocasts(x.device)
    if not is_exact or pairs != "interleaved" or not x.numel() or torch.compiler.is_compiling():
        return rotate(linear(x, weight).unflatten(-1, (-1, dim)).transpose(1, 2), cos, sin, pairs=pairs)
    turned: Tensor = _RotatedLinear.apply(x, weight, torch.complex(cos, sin).unsqueeze(2))
    return turned.unflatten(-1, (-1, dim)).transpose(1, 2)


class _RotatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, rotation: Tensor) -> Tensor:
        out = x.new_empty(*x.shape[:2], weight.shape[0])
        torch.mm(x.flatten(0, 1), weight.t(), out=out.view(-1, weight.shape[0]))
        pairs = _pairs(out, rotation)
        torch.mul(pairs, rotation, out=pairs)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, rotation = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        rows = torch.view_as_real(_pairs(grad.contiguous(), rotation) * rotation.conj()).view(-1, weight.shape[0])
        d_x = (rows @ weight).view(x.shape) if needs_x else None
        return d_x, rows.t() @ x.flatten(0, 1) if needs_weight else None, None


def _pairs(x: Tensor, rotation: Tensor) -> Tensor:
    """All channels as complex numbers, ``(batch, time, heads, pairs)``."""
    return torch.view_as_complex(x.view(*x.shape[:2], -1, rotation.shape[-1], 2))
