"""Random numbers that are a function of where they are used: of a seed, a row and a position in the text.

No generator is carried from token to token, so none has to be saved: a generation that goes on from a file, on another
device, or after other rows of its batch have ended, draws what it would have drawn.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def uniforms(
    seed: int, row: Int[Tensor, "rows"], position: Int[Tensor, "rows"], count: int = 1
) -> Float[Tensor, "rows count"]:
    """Numbers from 0 up to but not 1, in float64, for ``count`` positions from ``position`` on.

    Each row has a SplitMix64 sequence of its own (Steele, Lea and Flood 2014), and position n takes its n-th number.

    Args:
        seed: From 0 to 2**63 - 1.
        row: Number of each row in its batch.
        position: First position of each row.
        count: How many positions.
    """
    start = _mix(_mix(torch.full_like(row, seed) + _GOLDEN) ^ (row * _GOLDEN))
    steps = position[:, None] + torch.arange(1, count + 1, device=position.device)
    mixed = _mix(start[:, None] + steps * _GOLDEN)
    return _shift(mixed, 11).to(torch.float64) * 2.0**-53


def _mix(bits: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The output function of SplitMix64; products wrap around at 64 bits."""
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


def _shift(bits: Int[Tensor, "..."], places: int) -> Int[Tensor, "..."]:
    """Shift to the right and fill with zeros; a signed shift alone would fill with the sign."""
    return (bits >> places) & (2 ** (64 - places) - 1)


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)
