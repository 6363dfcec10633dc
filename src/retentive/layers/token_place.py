"""The position of each row's next token, and how a step is run: the last argument of a layer's ``step``."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from retentive.layers.batch_layout import BatchLayout, RotaryByConfig, RotaryConfig, RotaryTables, rotary_by_config
from retentive.ops.retention import recurrent_step
from retentive.ops.tracing import is_traced
from retentive.shapes import RetentionMatrix

Rotation = Complex[Tensor, "#batch 2 1 1 pairs"] | Float[Tensor, "#batch 2 1 1 pairs 2"]
"""Of one token: of its query, scaled by ``dim ** -0.5``, then of its key. Complex numbers, or in compiled and exported
steps, whose compilers do not fuse those, cosine and sine side by side."""

KeyRotation = Complex[Tensor, "#batch 1 1 pairs"] | Float[Tensor, "#batch 1 1 pairs 2"]
"""The second of them."""


Source = TypeVar("Source")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class SegmentPosition:
    """A position that is the same in every row, and that begins again with each segment.

    Attributes:
        number: The position.
        read: Tokens that each row has read; ``read % period`` is ``number`` in every row.
        period: After so many tokens positions begin again.
        counted: Added to what states count as the next position.
    """

    number: int
    read: Int[Tensor, "batch"]
    period: int
    counted: int = 0


class StepContext:
    """How a step is run, which changes speed and never results. This one computes everything anew.

    An engine passes another one, with buffers that grow in place and rotations that are computed ahead.
    """

    def retain(
        self,
        query: Float[Tensor, "batch heads key_dim"],
        key: Float[Tensor, "batch heads key_dim"],
        value: Float[Tensor, "batch heads value_dim"],
        state: RetentionMatrix,
        decay: Float[Tensor, "*rows heads 1 1"],
    ) -> tuple[Float[Tensor, "batch heads value_dim"], RetentionMatrix]:
        """Return what `recurrent_step` returns. An engine that owns the state may write over its memory."""
        return recurrent_step(query, key, value, state, decay)

    def append(self, past: Tensor, entry: Tensor, dim: int, longest: int | None = None) -> tuple[Tensor, Tensor]:
        """Return ``past`` with one more entry, and its last ``longest`` entries, from which the next step goes on.

        Args:
            past: Entries of earlier tokens, along ``dim``.
            entry: Of this token, without that dimension.
            dim: Along which entries stand.
            longest: Entries that the next step needs, at most; None is all.
        """
        whole = torch.cat((past, entry.unsqueeze(dim)), dim)
        surplus = 0 if longest is None else max(0, whole.shape[dim] - longest)
        return whole, whole.narrow(dim, surplus, whole.shape[dim] - surplus)

    def last(self, past: Tensor, dim: int) -> Tensor:
        """Return the last entry of ``past``, which has some, as a dimension of 1."""
        return past.narrow(dim, past.shape[dim] - 1, 1)

    def prepare(self, source: Source, make: Callable[[Source], Made]) -> Made:
        """Return ``make(source)``; an engine calls ``make`` once for all steps over the same object."""
        return make(source)

    def place(
        self, position: Int[Tensor, "batch"], rotary: Collection[RotaryConfig], dtype: torch.dtype, offset: int = 0
    ) -> "TokenPlace":
        """Return the place of the token that comes after ``position`` tokens.

        Args:
            position: Tokens that each row has read.
            rotary: The rotations that the layers need.
            dtype: Of the model; rotations are complex numbers of float32 or wider.
            offset: Added to positions before they are rotated.
        """
        positions = position[:, None]
        return make_place(positions, position + 1, rotary, dtype, self, offset)

    def place_at(
        self, where: SegmentPosition, rotary: Collection[RotaryConfig], dtype: torch.dtype, offset: int = 0
    ) -> "TokenPlace":
        """Return the place of a token that stands at one position in every row.

        Args:
            where: The position.
            rotary: See `place`, like ``dtype`` and ``offset``.
            dtype: See there.
            offset: See there.
        """
        positions = torch.full((1, 1), where.number, dtype=torch.long, device=where.read.device)
        following = torch.full_like(where.read, where.number + 1 + where.counted)
        return make_place(positions, following, rotary, dtype, self, offset)


PLAIN = StepContext()
"""Computes everything anew in each step."""


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """The position of each row's next token, and its rotations.

    Attributes:
        positions: Position of the token in its document.
        next_position: Position of the token after it.
        rotations: The config of layers that need a rotation, the token's `Rotation`, and its `KeyRotation`.
        context: How the step is run.
    """

    positions: Int[Tensor, "#batch 1"]
    next_position: Int[Tensor, "batch"]
    rotations: tuple[tuple[RotaryConfig, Tensor, Tensor], ...]
    context: StepContext = PLAIN

    def rotation(self, rotary: RotaryConfig | None) -> Rotation | None:
        """The token's rotation by one config; None without one."""
        if rotary is None:
            return None
        for config, rotation, _ in self.rotations:
            if config is rotary or config == rotary:
                return rotation
        raise KeyError(f"no rotation was made by {rotary}.")

    def key_rotation(self, rotary: RotaryConfig) -> KeyRotation:
        """The rotation of the token's key; attention, which scales scores itself, rotates its query by it too."""
        for config, _, rotation in self.rotations:
            if config is rotary or config == rotary:
                return rotation
        raise KeyError(f"no rotation was made by {rotary}.")


def make_place(
    positions: Int[Tensor, "#batch 1"],
    next_position: Int[Tensor, "batch"],
    rotary: Collection[RotaryConfig],
    dtype: torch.dtype,
    context: StepContext,
    offset: int = 0,
) -> TokenPlace:
    """Make a place of positions; arguments are those of `StepContext.place`."""
    tables = rotary_by_config(positions + offset if offset else positions, rotary, dtype)
    return TokenPlace(positions, next_position, _rotations(tables), context)


def place_of(layout: BatchLayout) -> TokenPlace:
    """The place of a call of one token."""
    return TokenPlace(layout.positions, layout.next_position, _rotations(layout.rotary))


def _rotations(tables: RotaryByConfig) -> tuple[tuple[RotaryConfig, Tensor, Tensor], ...]:
    if not is_traced():
        return tuple((config, found.complex, found.complex[:, 1]) for config, found in tables.items())
    real = {config: _side_by_side(found) for config, found in tables.items()}
    return tuple((config, both, both[:, 1]) for config, both in real.items())


def _side_by_side(tables: RotaryTables) -> Float[Tensor, "#batch 2 1 time pairs 2"]:
    """`RotaryTables.complex` in real numbers."""
    rotation = torch.stack((tables.cos, tables.sin), -1)
    return torch.stack((rotation * (2 * rotation.shape[-2]) ** -0.5, rotation), 1).unsqueeze(2)
