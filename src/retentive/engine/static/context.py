"""How a compiled or exported step is run: entries are written into rings of fixed size."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from retentive.errors import MismatchError
from retentive.layers.batch_layout import RotaryConfig
from retentive.layers.token_place import SegmentPosition, StepContext, TokenPlace
from retentive.shapes import RetentionMatrix


@dataclass(frozen=True, slots=True)
class Growth:
    """How a tensor of a state grows by an entry a token.

    Attributes:
        dim: Along which its entries stand.
        longest: Entries that the next step needs, at most; None is all.
    """

    dim: int
    longest: int | None


class RingContext(StepContext):
    """Past entries stand in a ring: that of the token with number ``clock`` is written at ``clock % size``.

    The ring's order does not matter to who reads it whole: keys are rotated, and marks tell which entries are there.
    """

    def __init__(self, clock: Int[Tensor, ""]) -> None:
        """Take the number of the token that is read; one clock serves all rings."""
        self._clock = clock

    def retain(
        self, query: Tensor, key: Tensor, value: Tensor, state: RetentionMatrix, decay: Tensor
    ) -> tuple[Tensor, RetentionMatrix]:
        """Return what `recurrent_step` returns, as sums and products that compilers make one pass of."""
        query, key, value, dtype = query.to(state.dtype), key.to(state.dtype), value.to(state.dtype), query.dtype
        after = state * decay + key.unsqueeze(3) * value.unsqueeze(2)
        return (query.unsqueeze(3) * after).sum(2).to(dtype), after

    def append(self, past: Tensor, entry: Tensor, dim: int, longest: int | None = None) -> tuple[Tensor, Tensor]:
        """Write the entry into the ring, over the oldest one where it is full."""
        place = (self._clock % past.shape[dim]).reshape(1)
        past.index_copy_(dim, place, entry.to(past.dtype).unsqueeze(dim))
        return past, past

    def last(self, past: Tensor, dim: int) -> Tensor:
        """The entry before the one that is written next."""
        return past.index_select(dim, ((self._clock - 1) % past.shape[dim]).reshape(1))

    def place_at(
        self, where: SegmentPosition, rotary: Collection[RotaryConfig], dtype: torch.dtype, offset: int = 0
    ) -> TokenPlace:
        """The place that follows from ``where.read``: the shapes of rings tell no number."""
        place = self.place(where.read % where.period, rotary, dtype, offset)
        return TokenPlace(place.positions, place.next_position + where.counted, place.rotations, self)


class NotingContext(StepContext):
    """Computes everything anew, and notes what a step does to the tensors of a state.

    Attributes:
        growing: Those that get an entry.
        retained: The matrices of retention.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors of the state that is stepped from, by name."""
        self._tensors = tensors
        self.growing: dict[str, Growth] = {}
        self.retained: set[str] = set()

    def retain(
        self, query: Tensor, key: Tensor, value: Tensor, state: RetentionMatrix, decay: Tensor
    ) -> tuple[Tensor, RetentionMatrix]:
        """Note the matrix, if it is the state's own."""
        name = self._name_of(state)
        if name is not None:
            self.retained.add(name)
        return super().retain(query, key, value, state, decay)

    def append(self, past: Tensor, entry: Tensor, dim: int, longest: int | None = None) -> tuple[Tensor, Tensor]:
        """Note the tensor.

        Raises:
            MismatchError: If it is none of the state's.
        """
        name = self._name_of(past)
        if name is None:
            raise MismatchError(
                f"a step must append to tensors of its state, but appends to one of shape {tuple(past.shape)} that is "
                "none of them; such a layer runs with engine='eager'."
            )
        self.growing[name] = Growth(dim, longest)
        return super().append(past, entry, dim, longest)

    def _name_of(self, held: Tensor) -> str | None:
        return next((name for name, tensor in self._tensors.items() if tensor is held), None)
