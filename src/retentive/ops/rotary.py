"""Rotation of queries and keys by their position.

Pairs of numbers are complex ones: the query at n becomes q e^(i n t), the key at m becomes k e^(i m t). Their real
inner product is Re(q e^(i n t) conj(k e^(i m t))) = Re(q conj(k) e^(i (n - m) t)), a function of the distance alone. It
brings the conjugate itself, so query and key are rotated the same way (docs/theory/rotation.md).
"""

import math
from functools import reduce
from operator import or_
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from retentive.config_types import check_count
from retentive.ops.tracing import is_traced
from retentive.shapes import Positions

Frequencies = Literal["retnet", "standard"]
RotaryPairs = Literal["interleaved", "half"]

_EXACT = {(torch.float32, torch.complex64), (torch.float64, torch.complex128)}
"""Dtypes of channels and of a rotation in which their product needs no conversion."""


def rotary_frequencies(
    dim: int,
    *,
    base: float = 10000.0,
    frequencies: Frequencies = "retnet",
    scaling: tuple[float, ...] | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "pairs"]:
    """Radians per token of each pair of numbers, in float64.

    ``"retnet"`` is ``base ** -linspace(0, 1, dim / 2)``, whose last frequency is ``1 / base`` (torchscale);
    ``"standard"`` is ``base ** -(2 i / dim)``, which ends before (RoFormer, Llama, flash-linear-attention).

    ``scaling`` slows them for texts longer than those of training. ``(factor,)`` divides all by the factor (position
    interpolation, arXiv:2306.15595). ``(factor, low, high, length)`` divides those of pairs that make fewer than
    ``low`` full rotations in ``length`` tokens, leaves those that make more than ``high``, and interpolates between
    (Llama 3.1).

    Raises:
        ValueError: If ``dim`` is not even and positive, ``base`` not positive, or the rule is unknown.
    """
    check_count("dim", dim, least=2)
    if dim % 2:
        raise ValueError(f"dim must be even and at least 2 to be rotated in pairs, but is {dim}.")
    if not base > 0:
        raise ValueError(f"base must be positive, but is {base}.")
    if frequencies == "retnet":
        exponents = torch.linspace(0, 1, dim // 2, dtype=torch.float64, device=device)
    elif frequencies == "standard":
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim
    else:
        raise ValueError(f'frequencies must be "retnet" or "standard", but is {frequencies!r}.')
    return base**-exponents if scaling is None else _slowed(base**-exponents, scaling)


def _slowed(frequencies: Float[Tensor, "pairs"], scaling: tuple[float, ...]) -> Float[Tensor, "pairs"]:
    if len(scaling) == 1:
        return frequencies / scaling[0]
    factor, low, high, length = scaling
    turns = frequencies * length / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / factor)


def rotary_tables(
    positions: Positions, frequencies: Float[Tensor, "pairs"], dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "#batch time pairs"], Float[Tensor, "#batch time pairs"]]:
    """``cos`` and ``sin`` of every position's angles: exact integers times float64, rounded once at the end.

    Args:
        positions: From 0; in float32 the angle of position 2**20 would be off by 0.03 radians.
        frequencies: From `rotary_frequencies`.
        dtype: Of the tables; float32 also for a model of half precision.

    Raises:
        TypeError: If ``positions`` are not integers.
    """
    if positions.is_floating_point():
        raise TypeError(f"positions must be integers, but are {positions.dtype}.")
    angles = positions.to(torch.float64).unsqueeze(-1) * frequencies.to(torch.float64)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(
    x: Float[Tensor, "batch heads time dim"],
    cos: Float[Tensor, "#batch time pairs"],
    sin: Float[Tensor, "#batch time pairs"],
    *,
    pairs: RotaryPairs = "interleaved",
) -> Float[Tensor, "batch heads time dim"]:
    """Rotate every pair of every head, in the wider dtype of ``x`` and the tables.

    Tables multiplied by a scale scale the result too, without another pass over memory.

    Args:
        x: Queries or keys, in any memory order.
        cos: From `rotary_tables`.
        sin: From `rotary_tables`.
        pairs: ``"interleaved"`` pairs numbers 0 and 1, 2 and 3, ... (RetNet); ``"half"`` pairs number i with
            i + dim / 2 (GPT-NeoX, Llama).

    Returns:
        A contiguous tensor of the dtype of ``x``.

    Raises:
        ValueError: If the tables are not of ``dim / 2`` pairs, or ``pairs`` is unknown.
    """
    if pairs not in ("interleaved", "half"):
        raise ValueError(f'pairs must be "interleaved" or "half", but is {pairs!r}.')
    if 2 * cos.shape[-1] != x.shape[-1]:
        raise ValueError(f"cos and sin must have dim / 2 = {x.shape[-1] / 2:g} pairs, but have {cos.shape[-1]}.")
    dtype = torch.promote_types(x.dtype, cos.dtype)
    cos, sin = cos.to(dtype).unsqueeze(1), sin.to(dtype).unsqueeze(1)
    if is_traced():
        return _rotated_by_formula(x, cos, sin, pairs == "half")
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _rotated(x, cos, sin, pairs == "half", time_first=False)
    return _Rotate.apply(x, cos, sin, pairs == "half", False)


def apply_rotary(
    x: Float[Tensor, "batch parts heads time dim"],
    by: Complex[Tensor, "#batch parts 1 time pairs"],
    *,
    pairs: RotaryPairs = "interleaved",
) -> Float[Tensor, "batch parts heads time dim"]:
    """`rotate` queries and keys in one pass, without gradients, by tables given as complex numbers.

    Args:
        x: Queries and keys, in parts that have tables of their own, in any memory order.
        by: ``cos + 1j * sin`` of `rotary_tables` for each part; multiplied by a scale, it scales too.
        pairs: As in `rotate`.
    """
    exact = x.dtype is torch.float32 and by.dtype is torch.complex64
    wide = x if exact else x.to(by.real.dtype)
    if pairs == "half":
        first, second = wide.chunk(2, -1)
        turned = torch.complex(first, second) * by
        return torch.cat((turned.real, turned.imag), -1).to(x.dtype)
    if x.shape[3] == 1:  # any memory order will do
        turned = torch.view_as_real(_as_complex(wide) * by).flatten(-2)
        return turned if exact else turned.to(x.dtype)
    out = wide.new_empty(x.shape)
    torch.mul(_as_complex(wide), by, out=_as_complex(out))
    return out.to(x.dtype)


def rotate_token(
    x: Float[Tensor, "batch channels"],
    heads: tuple[int, ...],
    by: Complex[Tensor, "..."] | Float[Tensor, "..."],
    *,
    pairs: RotaryPairs = "interleaved",
) -> Float[Tensor, "batch ..."]:
    """`apply_rotary` for one token of each row, in few small operations.

    Args:
        x: Heads side by side.
        heads: What the channels are split into: a number of heads, or of parts and of the heads of each.
        by: The token's rotation, ``(batch, 1, 1, pairs)``, or with parts ``(batch, parts, 1, 1, pairs)``; in compiled
            and exported steps real numbers, with cosine and sine as one more dimension of 2.
        pairs: As in `rotate`.

    Returns:
        The heads, ``(batch, *heads, dim)``.
    """
    if not by.is_complex():
        cos, sin = by.squeeze(-3).unbind(-1)
        return _rotated_by_formula(x.view(x.shape[0], *heads, -1), cos, sin, pairs == "half")
    if pairs == "half" or (x.dtype, by.dtype) not in _EXACT:
        parts = heads if len(heads) > 1 else (1, *heads)
        turned = apply_rotary(x.view(x.shape[0], *parts, 1, -1), by.view(-1, parts[0], 1, 1, by.shape[-1]), pairs=pairs)
        return turned.view(x.shape[0], *heads, -1)
    try:
        numbers = torch.view_as_complex(x.view(x.shape[0], *heads, 1, -1, 2))
    except RuntimeError:  # pairs straddle what memory can address as one number
        x = x.clone(memory_format=torch.contiguous_format)
        numbers = torch.view_as_complex(x.view(x.shape[0], *heads, 1, -1, 2))
    return torch.view_as_real(numbers * by).flatten(-3)


class _Rotate(torch.autograd.Function):
    """One pass over memory each way; nothing but the tables is kept for the backward pass."""

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor, halves: bool, time_first: bool) -> Tensor:
        return _rotated(x, cos, sin, halves, time_first)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool, bool], output: Tensor) -> None:
        x, cos, sin, ctx.halves, _ = inputs
        # The gradient takes the memory order of ``x``, so that what made ``x`` need not copy it.
        ctx.time_first = x.stride(1) < x.stride(2)
        ctx.save_for_backward(cos, sin)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _Rotate.apply(grad, cos, -sin, ctx.halves, ctx.time_first), None, None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, halves: bool, time_first: bool) -> Tensor:
    """Rotate into new memory, ordered batch, heads, time, or batch, time, heads."""
    wide = x.to(cos.dtype)
    batch, heads, time, dim = x.shape
    shape = (batch, time, heads, dim) if time_first else (batch, heads, time, dim)
    out = wide.new_empty(shape)
    out = out.transpose(1, 2) if time_first else out
    if halves:
        (first, second), (out_first, out_second) = wide.chunk(2, -1), out.chunk(2, -1)
        torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    else:
        # A product of complex numbers is one pass; with real ones, strides of 2 make it five times slower.
        torch.mul(_as_complex(wide), torch.complex(cos, sin), out=_as_complex(out))
    return out.to(x.dtype)


def _rotated_by_formula(x: Tensor, cos: Tensor, sin: Tensor, halves: bool) -> Tensor:
    """The same in real numbers, for compilers: they fuse its seven operations, and do not fuse complex numbers."""
    wide = x.to(cos.dtype)
    first, second = wide.chunk(2, -1) if halves else wide.unflatten(-1, (-1, 2)).unbind(-1)
    turned = (first * cos - second * sin, first * sin + second * cos)
    return (torch.cat(turned, -1) if halves else torch.stack(turned, -1).flatten(-2)).to(x.dtype)


def _as_complex(x: Tensor) -> Tensor:
    """Pairs as complex numbers: a view, unless pairs straddle what memory can address as one."""
    *strides, last = x.stride()
    if last != 1 or reduce(or_, strides, x.storage_offset()) % 2:
        x = x.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(x.view(*x.shape[:-1], x.shape[-1] // 2, 2))
