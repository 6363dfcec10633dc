"""The state protocol: what a model carries from one call to the next, and what every such value can do.

A state is a frozen dataclass whose fields are tensors with the batch first, other states, or tuples of states. It goes
into a call and a new one comes out; no call edits it, and no module keeps it. Everything here works on any such value,
so the state of a new mixer can be selected, joined, restarted, detached, moved and saved without code of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

State = TypeVar("State", bound="RecurrentState")

StateShape = tuple[str | int, ...]
"""What a layer's state must look like: its kind, then the sizes that its config decides."""

RaggedFields = Mapping[str, Mapping[str, int]]
"""For each field that marks real entries, the fields whose entries it marks, and their dimension of entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentState:
    """Base of every state; its methods return a new state of the same type.

    Attributes:
        ragged: Fields in which rows may hold different numbers of entries, such as a key-value cache. They are aligned
            at the end and padded before; the field that is the key marks the real entries, or is None where all are.
    """

    ragged: ClassVar[RaggedFields] = {}

    @property
    def shape(self) -> StateShape:
        """What the state looks like; it fits a layer whose config has this ``state_shape``."""
        return (type(self).__name__,)

    @property
    def computed(self) -> Mapping[str, Tensor]:
        """Floating-point tensors in the dtype that the model computes in, by name; all others are float32 or wider."""
        return {}

    @property
    def entries(self) -> "tuple[int, Bool[Tensor, 'batch entries'] | None]":
        """How many entries of earlier tokens can be read one by one, and which are real; None where all are."""
        return 0, None

    def select(self: State, rows: Int[Tensor, "rows"] | Bool[Tensor, "batch"]) -> State:
        """Keep some rows of the batch: a mask drops rows, indices also reorder or repeat them (beam search)."""
        return map_tensors(self, lambda tensor: tensor[rows.to(tensor.device)])

    def join(self: State, *others: State) -> State:
        """Put the rows of other states under the rows of this one: the way back from ``select``."""
        return join_rows((self, *others))

    def with_rows(self: State, rows: Bool[Tensor, "batch"], other: State) -> State:
        """Put the rows of another state in the place of some of these; ``other`` has as many rows as are True."""
        numbers = torch.arange(len(rows), device=rows.device)
        order = torch.cat((numbers[~rows], numbers[rows])).argsort()
        return join_rows((self.select(~rows), other)).select(order)

    def restart(self: State, rows: Bool[Tensor, "batch"]) -> State:
        """Set some rows back to the initial state, whose numbers are 0."""
        return map_tensors(self, lambda tensor: tensor.masked_fill(rows.view(-1, *(1,) * (tensor.dim() - 1)), 0))

    def at(self: State, position: Int[Tensor, "batch"]) -> State:
        """The state with its rows' next tokens at ``position``; a state that counts no positions stays as it is."""
        return self

    def trimmed(self: State) -> State:
        """The state without entries that no row can read; a state of constant size stays as it is."""
        return self

    def detach(self: State) -> State:
        """Cut the gradient: what came before is a constant from here on."""
        return map_tensors(self, torch.Tensor.detach)

    def to(self: State, device: torch.device | str) -> State:
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
    """The state of a decoder: one state per layer, and how many tokens each row has read.

    Attributes:
        layers: The state of each layer.
        position: Tokens that each row has read.
        config: Config of the decoder that made the state; a decoder with another one refuses it. None if the state was
            put together by hand.
    """

    layers: tuple[RecurrentState, ...]
    position: Int[Tensor, "batch"]
    config: object = None


def join_rows(states: Sequence[State]) -> State:
    """Return one state with the rows of all, in the order given: the inverse of ``select``.

    Ragged fields are padded at the left, as their entries stand at the end; see `RecurrentState.ragged`.
    """
    first = states[0]
    if len(states) == 1:
        return first
    parts: dict[str, object] = {}
    for mark, dims in first.ragged.items():
        parts |= _join_entries(states, mark, dims)
    for field in fields(first):
        if field.name not in parts:
            parts[field.name] = _join_values(field.name, [getattr(state, field.name) for state in states])
    return type(first)(**parts)


def map_tensors(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """Apply ``change`` to every tensor of a state and return the new state."""
    return type(state)(**{field.name: _mapped(getattr(state, field.name), change) for field in fields(state)})


def named_tensors(state: RecurrentState, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a state by their path, as in ``layers.0.kv``, in the order of the fields."""
    return dict(_walk(prefix, state))


def with_tensors(template: State, tensors: dict[str, Tensor], prefix: str = "") -> State:
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


# Module-level functions: a nested function that calls itself is a reference cycle, which would keep the state of every
# token alive until the garbage collector runs.


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


def _join_values(name: str, values: Sequence[object]) -> object:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(cast("list[Tensor]", values))
    if isinstance(first, RecurrentState):
        return join_rows(cast("list[RecurrentState]", values))
    if isinstance(first, tuple):
        columns = zip(*cast("list[tuple[object, ...]]", values), strict=True)
        return tuple(_join_values(name, column) for column in columns)
    assert all(value == first for value in values), f"{name} differs from state to state and is no tensor"
    return first


def _join_entries(states: Sequence[RecurrentState], mark: str, dims: Mapping[str, int]) -> dict[str, Tensor | None]:
    """Join the fields that share one dimension of entries, and the field that marks the real ones."""
    some_field, some_dim = next(iter(dims.items()))
    lengths = [getattr(state, some_field).shape[some_dim] for state in states]
    longest = max(lengths)
    joined: dict[str, Tensor | None] = {}
    for name, dim in dims.items():
        entries: list[Tensor] = []
        for state, length in zip(states, lengths, strict=True):
            tensor: Tensor = getattr(state, name)
            shape = (*tensor.shape[:dim], longest - length, *tensor.shape[dim + 1 :])
            entries.append(torch.cat((tensor.new_zeros(shape), tensor), dim))
        joined[name] = torch.cat(entries)
    marks: list[Tensor] = []
    for state, length in zip(states, lengths, strict=True):
        real: Tensor | None = getattr(state, mark)
        tensor = getattr(state, some_field)
        if real is None:
            real = tensor.new_ones(tensor.shape[0], length, dtype=torch.bool)
        marks.append(torch.cat((real.new_zeros(tensor.shape[0], longest - length), real), 1))
    whole = torch.cat(marks)
    joined[mark] = None if bool(whole.all()) else whole
    return joined
