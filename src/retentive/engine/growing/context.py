"""How an engine runs a step: caches grow in place, rotations are computed ahead, and states are overwritten."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Int
from torch import Tensor

from retentive.engine.growing.buffers import GrowingBuffer
from retentive.engine.growing.position_cache import PositionCache
from retentive.layers.batch_layout import RotaryConfig
from retentive.layers.token_place import SegmentPosition, StepContext, TokenPlace
from retentive.ops.retention import recurrent_step
from retentive.shapes import RetentionMatrix

Source = TypeVar("Source")
Made = TypeVar("Made")

_PREPARED = 64


class EngineContext(StepContext):
    """For many steps over rows that the engine owns.

    Retention writes the new state over the old one: hand out copies of a state, never the state itself.
    """

    def __init__(self) -> None:
        """Begin without buffers."""
        self._buffers: dict[int, GrowingBuffer] = {}
        self._positions = PositionCache(self)
        self._prepared: dict[int, tuple[Any, Any]] = {}

    def retain(
        self, query: Tensor, key: Tensor, value: Tensor, state: RetentionMatrix, decay: Tensor
    ) -> tuple[Tensor, RetentionMatrix]:
        """Write the new state over the old one."""
        return recurrent_step(query, key, value, state, decay, overwrite=True)

    def append(self, past: Tensor, entry: Tensor, dim: int, longest: int | None = None) -> tuple[Tensor, Tensor]:
        """Write the entry behind the others, which are not copied."""
        # By the tensor that was last returned: its buffer holds it, so that no other one can have its id.
        buffer = self._buffers.pop(id(past), None)
        if buffer is None or buffer.longest != longest:
            buffer = GrowingBuffer(dim, longest)
        whole, kept = buffer.after(past, entry)
        self._buffers[id(kept)] = buffer
        return whole, kept

    def prepare(self, source: Source, make: Callable[[Source], Made]) -> Made:
        """Return what ``make`` returned for this source before, or call it."""
        held, made = self._prepared.get(id(source), (None, None))
        if held is not source:
            if len(self._prepared) >= _PREPARED:  # sources that are gone
                self._prepared.clear()
            made = make(source)
            self._prepared[id(source)] = source, made
        return cast("Made", made)

    def place(
        self, position: Int[Tensor, "batch"], rotary: Collection[RotaryConfig], dtype: torch.dtype, offset: int = 0
    ) -> TokenPlace:
        """Return the next place that was computed ahead."""
        return self._positions.place(position, rotary, dtype, offset)

    def place_at(
        self, where: SegmentPosition, rotary: Collection[RotaryConfig], dtype: torch.dtype, offset: int = 0
    ) -> TokenPlace:
        """Return a place that was computed ahead."""
        return self._positions.place_at(where, rotary, dtype, offset)

    def clear(self) -> None:
        """Forget all buffers and places; call it when rows have changed."""
        self._buffers.clear()
        self._positions.clear()
        self._prepared.clear()
