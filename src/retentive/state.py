"""The state protocol: what a model carries from one call to the next, and what every such value can do.

A state is a frozen dataclass whose fields are tensors with the batch first, other states, or tuples of states. It goes
into a call and a new one comes out; no call edits it, no module keeps it. Everything here works on any such value, so a
new memory gets selection, truncation, moves and files for nothing.
"""

from collections.abc import Callable
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
        return next(iter(named_tensors(self).values())).shape[0]

    @property
    def size_in_bytes(self) -> int:
        """Bytes that the state's values take, the same on disk and in memory."""
        return sum(tensor.numel() * tensor.element_size() for tensor in named_tensors(self).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState(RecurrentState):
    """What a decoder carries: one state a layer, and how many tokens each row has read."""

    layers: tuple[RecurrentState, ...]
    position: Int[Tensor, "batch"]


def map_tensors(state: Carried, change: Callable[[Tensor], Tensor]) -> Carried:
    """Apply ``change`` to every tensor of a state and return the new state."""

    def visit(value: object) -> object:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, RecurrentState):
            return map_tensors(value, change)
        if isinstance(value, tuple):
            return tuple(visit(part) for part in cast("tuple[object, ...]", value))
        return value

    return type(state)(**{field.name: visit(getattr(state, field.name)) for field in fields(state)})


def named_tensors(state: RecurrentState, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a state by their path, as in ``layers.0.kv``, in the order of the fields."""
    found: dict[str, Tensor] = {}

    def visit(name: str, value: object) -> None:
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, RecurrentState):
            found.update(named_tensors(value, f"{name}."))
        elif isinstance(value, tuple):
            for index, part in enumerate(cast("tuple[object, ...]", value)):
                visit(f"{name}.{index}", part)

    for field in fields(state):
        visit(prefix + field.name, getattr(state, field.name))
    return found


def with_tensors(template: Carried, tensors: dict[str, Tensor], prefix: str = "") -> Carried:
    """Rebuild a state of the template's structure from tensors by path, the inverse of `named_tensors`.

    Raises:
        KeyError: If a tensor of the template is missing; the message is its path.
    """

    def visit(name: str, value: object) -> object:
        if isinstance(value, RecurrentState):
            return with_tensors(value, tensors, f"{name}.")
        if isinstance(value, tuple):
            return tuple(visit(f"{name}.{i}", part) for i, part in enumerate(cast("tuple[object, ...]", value)))
        if isinstance(value, Tensor):
            return tensors[name]
        return tensors.get(name, value)  # an optional tensor that the template lacks

    return type(template)(
        **{field.name: visit(prefix + field.name, getattr(template, field.name)) for field in fields(template)}
    )
