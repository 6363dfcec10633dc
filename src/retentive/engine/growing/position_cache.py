"""Positions and rotations of the next tokens, computed many at a time: one by one they take a tenth of a small step."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from retentive.layers.batch_layout import RotaryConfig, rotary_by_config
from retentive.layers.token_place import SegmentPosition, StepContext, TokenPlace

_AHEAD = 64

Key = tuple[Collection[RotaryConfig], torch.dtype, int]


@dataclass(slots=True)
class _Row:
    """Places that follow one tensor of positions, the next one last."""

    rotary: Collection[RotaryConfig]
    expected: Tensor
    ahead: list[TokenPlace]


class PositionCache:
    """Places of one token after another, for a loop that goes on from the last position that it was given."""

    def __init__(self, context: StepContext) -> None:
        """Compute nothing before the first token.

        Args:
            context: What the places say of how a step is run.
        """
        self._context = context
        self._after: dict[tuple[int, torch.dtype, int], _Row] = {}
        self._at: dict[tuple[Key, int, int], tuple[int, list[TokenPlace]]] = {}

    def place(
        self, position: Int[Tensor, "batch"], rotary: Collection[RotaryConfig], dtype: torch.dtype, offset: int = 0
    ) -> TokenPlace:
        """See `StepContext.place`: the next place made ahead, if ``position`` is where the last one ended."""
        # By identity: the row keeps the rotations' configs, so that no others can have their id.
        key = (id(rotary), dtype, offset)
        row = self._after.get(key)
        if row is None or row.expected is not position or not row.ahead:
            positions = position[:, None] + torch.arange(_AHEAD, device=position.device)
            ahead = self._make(positions, positions + 1, (rotary, dtype, offset))[::-1]
            row = self._after[key] = _Row(rotary, position, ahead)
        place = row.ahead.pop()
        row.expected = place.next_position
        return place

    def place_at(
        self, where: SegmentPosition, rotary: Collection[RotaryConfig], dtype: torch.dtype, offset: int = 0
    ) -> TokenPlace:
        """See `StepContext.place_at`: one of the places made ahead, where the position is among them."""
        key, number, batch = (rotary, dtype, offset), where.number, where.read.shape[0]
        full_key = (key, batch, where.counted)
        first, places = self._at.get(full_key, (0, []))
        if not 0 <= number - first < len(places):
            positions = torch.arange(number, number + _AHEAD, device=where.read.device)[None]
            following = (positions + 1 + where.counted).expand(batch, -1)
            first, places = self._at[full_key] = number, self._make(positions, following, key)
        return places[number - first]

    def clear(self) -> None:
        """Forget all places; call it when rows have changed."""
        self._after.clear()

    def _make(
        self, positions: Int[Tensor, "#batch ahead"], following: Int[Tensor, "batch ahead"], key: Key
    ) -> list[TokenPlace]:
        rotary, dtype, offset = key
        tables = rotary_by_config(positions + offset if offset else positions, rotary, dtype)
        rotations = [
            (config, found.complex.split(1, 3), found.complex[:, 1].split(1, 2)) for config, found in tables.items()
        ]
        # Transposed, so that each is a tensor with its own numbers side by side: states go into files.
        after = following.t().clone(memory_format=torch.contiguous_format).unbind(0)
        return [
            TokenPlace(
                here, then, tuple((config, both[at], keys[at]) for config, both, keys in rotations), self._context
            )
            for at, (here, then) in enumerate(zip(positions.split(1, 1), after, strict=True))
        ]
