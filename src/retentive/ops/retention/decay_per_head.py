"""A decay of each head, the same for all its tokens: a constant of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.precision import state_dtype
from retentive.ops.retention.chunks import (
    Chunks,
    ChunkStates,
    ValueChunks,
    chunk_gradients,
    in_filled_chunks,
    read_chunks,
    read_chunks_plainly,
)
from retentive.ops.retention.chunkwise import ChunkwiseFunction
from retentive.ops.retention.decay import DecayTables, decay_tables, padded_decay_tables
from retentive.ops.retention.inputs import Flags
from retentive.ops.retention.recurrent import recurrent_decay
from retentive.ops.tracing import differentiable_gradients
from retentive.shapes import LogDecay, RetentionMatrix, TokenFlags


@dataclass(frozen=True, slots=True)
class HeadDecay:
    """See `Decay`.

    Attributes:
        log_decay: ``log(gamma)`` of each head, checked.
    """

    log_decay: LogDecay

    def tables(self, size: int, dtype: torch.dtype, mask: TokenFlags = None, starts: TokenFlags = None) -> DecayTables:
        """Tables of integer powers of ``gamma``."""
        return decay_tables(self.log_decay, size, dtype, mask, starts)

    def filled_tables(self, count: int, size: int, time: int, dtype: torch.dtype, flags: Flags) -> DecayTables:
        """Tables of which the last chunk's count its real tokens."""
        return padded_decay_tables(self.log_decay, size, dtype, time, count, *flags)

    def filled_log_decay(self, size: int, time: int, flags: Flags) -> Float[Tensor, "rows heads chunks size"]:
        """The same number for each real token; without flags, the same for all rows."""
        mask, starts = flags
        real = torch.ones(1, time, dtype=torch.bool, device=self.log_decay.device) if mask is None else mask
        rate = self.log_decay[None, :, None, None].where(in_filled_chunks(real, size, 1)[:, None], 0)
        return rate if starts is None else rate.masked_fill(in_filled_chunks(starts, size, 1)[:, None], -torch.inf)

    def steps(self, time: int, dtype: torch.dtype) -> Sequence[Float[Tensor, "heads 1 1"]]:
        """The same ``gamma`` for each token."""
        return [recurrent_decay(self.log_decay, dtype)] * time

    def split(self, lengths: list[int]) -> "Sequence[HeadDecay]":
        """The same decay for each piece."""
        return [self] * len(lengths)

    def over_chunks(
        self, query: Chunks, key: Chunks, value: ValueChunks, state: RetentionMatrix | None, flags: Flags
    ) -> tuple[ValueChunks, RetentionMatrix]:
        """Make the tables once, for both passes."""
        tables = self.tables(query.shape[3], state_dtype(query.dtype), *flags)
        output, after, _ = _ChunkwiseRetention.apply(
            query, key, value, state, tables.intra, tables.query, tables.key, tables.chunk
        )
        return output, after


class _ChunkwiseRetention(ChunkwiseFunction):
    """`read_chunks` with tables that get no gradient."""

    @staticmethod
    def forward(
        query: Chunks, key: Chunks, value: ValueChunks, state: RetentionMatrix | None, *tables: Tensor
    ) -> tuple[ValueChunks, RetentionMatrix, ChunkStates]:
        return read_chunks(query, key, value, state, DecayTables(*tables))

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_output: ValueChunks | None, d_after: RetentionMatrix | None, _: None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, state, states, *tables = ctx.saved_tensors
        if torch.is_grad_enabled():
            again = partial(read_chunks_plainly, tables=DecayTables(*tables))
            found = differentiable_gradients(again, (query, key, value, state), (d_output, d_after))
            return *found, None, None, None, None
        gradients = chunk_gradients(query, key, value, states, DecayTables(*tables), d_output, d_after)
        d_state = None if state is None else gradients.state
        return gradients.query, gradients.key, gradients.value, d_state, None, None, None, None
