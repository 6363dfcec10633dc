"""What the forms of retention ask of a decay: one of each head, or one of each head and token."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.retention.chunks import Chunks, ValueChunks
from retentive.ops.retention.decay import DecayTables
from retentive.ops.retention.inputs import Flags
from retentive.shapes import RetentionMatrix, TokenFlags


@runtime_checkable
class Decay(Protocol):
    """``gamma`` of the tokens of one call, from float64."""

    @property
    def log_decay(self) -> Float[Tensor, "..."]:
        """``log(gamma)``, of which gradients are taken where it learns."""
        ...

    def tables(self, size: int, dtype: torch.dtype, mask: TokenFlags = None, starts: TokenFlags = None) -> DecayTables:
        """Return the tables of chunks of ``size`` tokens."""
        ...

    def filled_tables(self, count: int, size: int, time: int, dtype: torch.dtype, flags: Flags) -> DecayTables:
        """Return the tables of ``count`` chunks that zeros fill up after ``time`` tokens; flags are filled up too."""
        ...

    def filled_log_decay(self, size: int, time: int, flags: Flags) -> Float[Tensor, "rows heads chunks size"]:
        """Return ``log(gamma)`` of ``time`` tokens in chunks: 0 at padding and at what fills up, ``-inf`` at starts."""
        ...

    def steps(self, time: int, dtype: torch.dtype) -> Sequence[Float[Tensor, "..."]]:
        """Return ``gamma`` of each of ``time`` tokens as `recurrent_step` takes it."""
        ...

    def split(self, lengths: list[int]) -> "Sequence[Decay]":
        """Return the decays of pieces of these numbers of tokens."""
        ...

    def over_chunks(
        self, query: Chunks, key: Chunks, value: ValueChunks, state: RetentionMatrix | None, flags: Flags
    ) -> tuple[ValueChunks, RetentionMatrix]:
        """Run `read_chunks`, with a backward pass that keeps the inputs and the chunks' states."""
        ...
