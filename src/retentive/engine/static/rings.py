"""A state's entries in rings, and back in order."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from retentive.engine.static.context import Growth
from retentive.engine.static.tensor_step import StepForm

_LEAST = 64


@dataclass(slots=True)
class Rings:
    """The tensors of a state in memory of fixed shapes, and how many tokens they have read.

    Attributes:
        tensors: By name; those that grow are rings.
        growing: How they grow.
        lengths: Entries of each ring when it was filled.
        filled: The clock when they were filled.
        clock: Number of the next token, which the step reads and the caller counts.
        room: Tokens that can be read before a ring that needs all its entries is full; None where none does.
    """

    tensors: dict[str, Tensor]
    growing: Mapping[str, Growth]
    lengths: Mapping[str, int]
    filled: int
    clock: int
    room: int | None

    @property
    def is_full(self) -> bool:
        """Whether another token would be written over one that is needed."""
        return self.room is not None and self.clock - self.filled >= self.room

    def values(self) -> dict[str, Tensor]:
        """The tensors as an ordinary state has them: entries in order, the newest last; copies."""
        return {name: self._value(name, tensor) for name, tensor in self.tensors.items()}

    def _value(self, name: str, ring: Tensor) -> Tensor:
        growth = self.growing.get(name)
        if growth is None:
            return ring.clone(memory_format=torch.contiguous_format)
        length = self.lengths[name] + self.clock - self.filled
        if growth.longest is not None:
            length = min(length, growth.longest)
        order = torch.arange(self.clock - length, self.clock, device=ring.device) % ring.shape[growth.dim]
        return ring.index_select(growth.dim, order)


def fill_rings(tensors: Mapping[str, Tensor], form: StepForm, tokens: int | None = None) -> Rings:
    """Copy the tensors of a state into memory of fixed shapes.

    Args:
        tensors: By name; entries that grow stand in order.
        form: Of the tensors.
        tokens: So many tokens will be read, at most; None makes room for half as many entries again as there are.
    """
    growing = form.growing
    lengths = {name: tensors[name].shape[growth.dim] for name, growth in growing.items()}
    endless = [lengths[name] for name, growth in growing.items() if growth.longest is None]
    clock = max(lengths.values(), default=0)
    room = None if not endless else (max(_LEAST, max(endless) // 2) if tokens is None else tokens)
    size = 0 if room is None else max(endless) + room
    held: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        growth = growing.get(name)
        if growth is not None:
            held[name] = _ring(tensor, growth, size, clock)
        elif name in form.by_columns:
            held[name] = tensor.mT.clone(memory_format=torch.contiguous_format).mT
        else:
            held[name] = tensor.clone(memory_format=torch.contiguous_format)
    return Rings(held, growing, lengths, clock, clock, room)


def _ring(entries: Tensor, growth: Growth, size: int, clock: int) -> Tensor:
    """A ring that holds the entries before ``clock``; False or 0 elsewhere."""
    dim, length = growth.dim, entries.shape[growth.dim]
    shape = list(entries.shape)
    # One more than the next step keeps: the token that is read stands beside them.
    shape[dim] = size if growth.longest is None else growth.longest + 1
    ring = entries.new_zeros(shape)
    places = torch.arange(clock - length, clock, device=entries.device) % shape[dim]
    return ring.index_copy_(dim, places, entries)
