"""What a memory around a Hugging Face model carries from call to call, and its rows apart and side by side."""

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from retentive.layers.memory.associative import AssociativeState
from retentive.layers.mixers.key_value_cache import KeyValueState
from retentive.shapes import Memory
from retentive.state import ModelState, RaggedFields, RecurrentState, join_rows, map_tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried(RecurrentState):
    """What passes from segment to segment.

    Attributes:
        memory: The memory tokens; none with an associative memory.
        associations: The associative memory of each block; empty without one.
    """

    memory: Memory
    associations: tuple[AssociativeState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceMemoryState(ModelState):
    """The memory, and the segment that is not finished.

    Its ``layers`` hold the keys and values of its memory and tokens, so that the next call reads new tokens alone. They
    are empty after a call with gradients, and for models that cache anything else: the tokens are then read again.

    Attributes:
        memory: What the unfinished segment reads.
        segment: Its tokens, at the end of the row.
        real: Which of them are there; None where rows have equally many.
        associations: The associative memory of each block; empty without one.
    """

    ragged: ClassVar[RaggedFields] = {"real": {"segment": 1}}

    memory: Memory
    segment: Int[Tensor, "batch unfinished"]
    real: Bool[Tensor, "batch unfinished"] | None = None
    associations: tuple[AssociativeState, ...] = ()

    @property
    def carried(self) -> Carried:
        """What the unfinished segment reads."""
        return Carried(memory=self.memory, associations=self.associations)


def row_of(state: HuggingFaceMemoryState, row: int) -> HuggingFaceMemoryState:
    one = slice(row, row + 1)
    segment = state.segment[one]
    carried = row_of_tensors(state.carried, row)
    return replace(
        state,
        layers=tuple(_row_of_layer(cast("KeyValueState", layer), row) for layer in state.layers),
        position=state.position[one],
        memory=carried.memory,
        associations=carried.associations,
        segment=segment if state.real is None else segment[:, state.real[row]],
        real=None,
    )


def row_of_tensors(carried: Carried, row: int) -> Carried:
    """What one row carries."""
    return map_tensors(carried, lambda tensor: tensor[row : row + 1])


def _row_of_layer(layer: KeyValueState, row: int) -> KeyValueState:
    """What is cached for one row, without the padding before it."""
    one = slice(row, row + 1)
    if layer.visible is None:
        return KeyValueState(key=layer.key[one], value=layer.value[one])
    begin = layer.key.shape[2] - int(layer.visible[row].sum())
    return KeyValueState(key=layer.key[one, :, begin:], value=layer.value[one, :, begin:])


def _without_entries(state: HuggingFaceMemoryState) -> tuple[KeyValueState, ...]:
    layers = cast("tuple[KeyValueState, ...]", state.layers)
    return tuple(KeyValueState(key=layer.key[:, :, :0], value=layer.value[:, :, :0]) for layer in layers)


def has_cache(state: HuggingFaceMemoryState) -> bool:
    """Whether keys and values of the unfinished segment are there."""
    return bool(state.layers) and cast("KeyValueState", state.layers[0]).key.shape[2] > 0


def side_by_side(states: list[HuggingFaceMemoryState]) -> HuggingFaceMemoryState:
    longest = max(state.segment.shape[1] for state in states)
    lengths = [state.segment.shape[1] for state in states]
    segment = [nn.functional.pad(state.segment, (longest - state.segment.shape[1], 0)) for state in states]
    places = torch.arange(longest, device=states[0].segment.device)
    even = len(set(lengths)) == 1
    if not all(has_cache(state) for state in states if state.segment.shape[1]):
        states = [replace(state, layers=_without_entries(state)) for state in states]
    carried = join_rows([state.carried for state in states])
    return replace(
        states[0],
        layers=tuple(join_rows(column) for column in zip(*(state.layers for state in states), strict=True)),
        position=torch.cat([state.position for state in states]),
        memory=carried.memory,
        associations=carried.associations,
        segment=torch.cat(segment),
        real=None if even else torch.stack([places >= longest - length for length in lengths]),
    )
