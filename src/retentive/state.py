"""The state protocol: what a model carries from one call to the next, and what every such value can do.

A state is a frozen dataclass whose fields are tensors with the batch first, other states, or tuples of states. It goes
into a call and a new one comes out; no call edits it, no module keeps it. Everything here works on any such value, so a
new memory gets selection, truncation, moves and files for nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TypeVar, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Leaf = Tensor | None
Carried = TypeVar("Carried", bound="RecurrentState")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentState:
    """Base of every carried value; its methods return a new value of the same type."""

    def select(self: Carried, rows: Int[Tensor, "rows"] | Bool[Tensor, "batch"]) -> Carried:
        """Keep some rows of the batch: a mask drops rows, indices also reorder or repeat them (beam search)."""
        return map_tensors(self, lambda tensor: tensor[rows.to(tensor.device)])

    def detach(self: Carried) -> Carried:
        """Cut the gradient: what came before is a constant from here on."""
        return map_tensors(self, torch.Tensor.detach)

    def to(self: Carried, device: torch.device | str) -> Carried:
        """Move every tensor to a device. The dtype never changes: a state is as exact as it was made."""
        return map_tensors(self, lambda tensor: tensor.to(device))

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return next(_walk("", self))[1].shape[0]

    @property
    def size_in_bytes(self) -> int:
        """Bytes that the state's values take, the same on disk and in memory."""
        return sum(tensor.numel() * tensor.element_size() for tensor in named_tensors(self).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState(RecurrentState):
    """What a decoder carries: one state a layer, and how many tokens each row has read.

    Attributes:
        layers: Of each layer.
        position: Tokens that each row has read.
        config: Of what made the state, so that nothing else goes on from it; None where it was put together by hand.
    """

    layers: tuple[RecurrentState, ...]
    position: Int[Tensor, "batch"]
    config: object = None


def map_tensors(state: Carried, change: Callable[[Tensor], Tensor]) -> Carried:
    """Apply ``change`` to every tensor of a state and return the new state."""
    return type(state)(**{field.name: _mapped(getattr(state, field.name), change) for field in fields(state)})


def named_tensors(state: RecurrentState, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a state by their path, as in ``layers.0.kv``, in the order of the fields."""
    return dict(_walk(prefix, state))


def with_tensors(template: Carried, tensors: dict[str, Tensor], prefix: str = "") -> Carried:
    """Rebuild a state of the template's structure from tensors by path, the inverse of `named_tensors`.

    Raises:
        KeyError: If a tensor of the template is missing; the message is its path.
    """
    return type(template)(
        **{
            field.name: _filled(prefix + field.name, getattr(template, field.name), tensors)
            for field in fields(template)
        }
    )


# These are functions of the module and not inside of others: a function that calls itself from a closure is a cycle,
# which would keep the state of every token alive until the garbage collector comes by.


def _mapped(value: object, change: Callable[[Tensor], Tensor]) -> object:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, RecurrentState):
        return map_tensors(value, change)
    if isinstance(value, tuple):
        return tuple(_mapped(part, change) for part in cast("tuple[object, ...]", value))
    return value


def _walk(prefix: str, state: RecurrentState) -> Iterator[tuple[str, Tensor]]:
    for field in fields(state):
        yield from _walk_value(prefix + field.name, getattr(state, field.name))


def _walk_value(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, RecurrentState):
        yield from _walk(f"{name}.", value)
    elif isinstance(value, tuple):
        for index, part in enumerate(cast("tuple[object, ...]", value)):
            yield from _walk_value(f"{name}.{index}", part)


def _filled(name: str, value: object, tensors: dict[str, Tensor]) -> object:
    if isinstance(value, RecurrentState):
        return with_tensors(value, tensors, f"{name}.")
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)
        return tuple(_filled(f"{name}.{index}", part, tensors) for index, part in enumerate(parts))
    if isinstance(value, Tensor):
        return tensors[name]
    return tensors.get(name, value)  # an optional tensor that the template lacks
