"""Tensors that grow by one entry per step, with memory allocated ahead."""

import torch
from torch import Tensor

_SPARE = 64


class GrowingBuffer:
    """``torch.cat((past, entry), dim)``, again and again, without copying what is there.

    Tensors that were returned never change: an entry is written once, behind them. So a loop may keep, select and go on
    from any of them; from one that is not the last, it goes on in new memory.
    """

    def __init__(self, dim: int, longest: int | None = None) -> None:
        """Take what stays the same; memory is allocated for the first entry.

        Args:
            dim: Along which it grows.
            longest: Entries that the next call goes on from, at most; None goes on from all.
        """
        self._dim = dim
        self.longest = longest
        self.kept: Tensor | None = None
        self._begin = self._end = 0

    def after(self, past: Tensor, entry: Tensor) -> tuple[Tensor, Tensor]:
        """``past`` with one entry more, and what to go on from: its last ``longest`` entries.

        Args:
            past: What the last call said to go on from, or any other tensor.
            entry: Without the dimension that grows.
        """
        dim = self._dim
        if past is not self.kept or self._end == self._memory.shape[dim]:
            self._move(past, entry)
        self._memory.select(dim, self._end).copy_(entry)
        self._end += 1
        whole = kept = self._memory.narrow(dim, self._begin, self._end - self._begin)
        if self.longest is not None and self._end - self._begin > self.longest:
            self._begin = self._end - self.longest
            kept = self._memory.narrow(dim, self._begin, self.longest)
        self.kept = kept
        return whole, kept

    def _move(self, past: Tensor, entry: Tensor) -> None:
        """Copy into new memory, half as large again, so that copying costs a constant time per token."""
        length = past.shape[self._dim]
        shape = list(past.shape)
        shape[self._dim] = length + max(_SPARE, length // 2)
        self._memory = past.new_empty(shape, dtype=torch.promote_types(past.dtype, entry.dtype))
        self._memory.narrow(self._dim, 0, length).copy_(past)
        self._begin, self._end = 0, length
