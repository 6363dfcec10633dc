"""Where single tokens stand, one call after the other: positions and rotations of many are made at once."""

from typing import NamedTuple

import torch
from jaxtyping import Complex, Int
from torch import Tensor

from retentive.layers.batch_layout import RotaryConfig, make_layout

_AHEAD = 64


class Place(NamedTuple):
    """Where the next token of each row stands.

    Attributes:
        positions: As in `BatchLayout`, like the next.
        next_position: See there.
        rotation: See there.
    """

    positions: Int[Tensor, "batch 1"]
    next_position: Int[Tensor, "batch"]
    rotation: Complex[Tensor, "batch 2 1 1 pairs"] | None


class Places:
    """The layout of one token after another, for a loop that goes on from the position it was given last."""

    def __init__(self, rotary: RotaryConfig | None, device: torch.device, dtype: torch.dtype) -> None:
        """Nothing is made before the first token."""
        self._made_by = {"rotary": rotary, "device": device, "dtype": dtype}
        self._ahead: list[Place] = []

    def after(self, position: Int[Tensor, "batch"]) -> Place:
        """The place after ``position``: the next one made ahead, if that is where the last one ended."""
        if not self._ahead or self._expected is not position:
            self._make(position)
        place = self._ahead.pop()
        self._expected = place.next_position
        return place

    def _make(self, position: Int[Tensor, "batch"]) -> None:
        layout = make_layout(position, position.shape[0], _AHEAD, **self._made_by)  # pyright: ignore[reportArgumentType]
        rotation = None if layout.rotation is None else layout.rotation.split(1, 3)
        # Transposed, so that each is a tensor with its own numbers side by side: states go into files.
        following = (layout.positions + 1).t().clone(memory_format=torch.contiguous_format).unbind(0)
        self._ahead = [
            Place(here, after, None if rotation is None else rotation[index])
            for index, (here, after) in enumerate(zip(layout.positions.split(1, 1), following, strict=True))
        ][::-1]
