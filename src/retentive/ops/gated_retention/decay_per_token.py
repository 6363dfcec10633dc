"""A decay of each head and token, which learns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retentive.ops.gated_retention.decay import Chunked, token_decay, token_decay_tables
from retentive.ops.precision import state_dtype
from retentive.ops.retention.chunks import (
    Chunks,
    ChunkStates,
    ValueChunks,
    chunk_gradients,
    in_chunks,
    in_filled_chunks,
    read_chunks,
    read_chunks_plainly,
    split_time,
)
from retentive.ops.retention.chunkwise import ChunkwiseFunction
from retentive.ops.retention.decay import DecayTables
from retentive.ops.retention.inputs import Flags
from retentive.ops.tracing import differentiable_gradients
from retentive.shapes import RetentionMatrix, TokenFlags, TokenLogDecay


@dataclass(frozen=True, slots=True)
class TokenDecay:
    """See `Decay`.

    Attributes:
        log_decay: ``log(gamma)`` of each head and token, from `effective_log_decay`: 0 at padding and starts.
    """

    log_decay: TokenLogDecay

    def tables(self, size: int, dtype: torch.dtype, mask: TokenFlags = None, starts: TokenFlags = None) -> DecayTables:
        """Tables of each chunk's own; what ``mask`` says is in the decays."""
        return token_decay_tables(in_chunks(self.log_decay, size), dtype, _flags_in_chunks(starts, size))

    def filled_tables(self, count: int, size: int, time: int, dtype: torch.dtype, flags: Flags) -> DecayTables:
        """The same tables: what fills up the last chunk does not decay."""
        return token_decay_tables(in_filled_chunks(self.log_decay, size), dtype, _flags_in_chunks(flags[1], size))

    def filled_log_decay(self, size: int, time: int, flags: Flags) -> Float[Tensor, "batch heads chunks size"]:
        """The numbers of the tokens."""
        rate, starts = in_filled_chunks(self.log_decay, size), flags[1]
        return rate if starts is None else rate.masked_fill(in_filled_chunks(starts, size, 1)[:, None], -torch.inf)

    def steps(self, time: int, dtype: torch.dtype) -> Sequence[Float[Tensor, "batch heads 1 1"]]:
        """``gamma`` of each token."""
        return token_decay(self.log_decay, dtype).unbind(2)

    def split(self, lengths: list[int]) -> "Sequence[TokenDecay]":
        """The decays of each piece's tokens."""
        return [TokenDecay(piece) for piece in split_time(self.log_decay, lengths)]

    def over_chunks(
        self, query: Chunks, key: Chunks, value: ValueChunks, state: RetentionMatrix | None, flags: Flags
    ) -> tuple[ValueChunks, RetentionMatrix]:
        """Make the tables in both passes: together they are larger than all that is kept."""
        size = query.shape[3]
        rate, begun = in_chunks(self.log_decay, size), _flags_in_chunks(flags[1], size)
        output, after, _ = _ChunkwiseGatedRetention.apply(query, key, value, state, rate, begun)
        return output, after


class _ChunkwiseGatedRetention(ChunkwiseFunction):
    """`read_chunks` with a gradient of the decays."""

    @staticmethod
    def forward(
        query: Chunks,
        key: Chunks,
        value: ValueChunks,
        state: RetentionMatrix | None,
        log_decay: Chunked,
        starts: Bool[Tensor, "batch chunks size"] | None,
    ) -> tuple[ValueChunks, RetentionMatrix, ChunkStates]:
        tables = token_decay_tables(log_decay, state_dtype(query.dtype), starts)
        return read_chunks(query, key, value, state, tables)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_output: ValueChunks | None, d_after: RetentionMatrix | None, _: None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, state, states, log_decay, starts = ctx.saved_tensors
        if torch.is_grad_enabled():

            def again(query: Chunks, key: Chunks, value: ValueChunks, state: RetentionMatrix | None, rate: Chunked):
                tables = token_decay_tables(rate, state_dtype(query.dtype), starts)
                return read_chunks_plainly(query, key, value, state, tables)

            found = differentiable_gradients(again, (query, key, value, state, log_decay), (d_output, d_after))
            return *found, None
        tables = token_decay_tables(log_decay, states.dtype, starts)
        gradients = chunk_gradients(query, key, value, states, tables, d_output, d_after, of_decay=True)
        assert gradients.log_decay is not None
        d_state = None if state is None else gradients.state
        return gradients.query, gradients.key, gradients.value, d_state, gradients.log_decay.to(log_decay.dtype), None


def _flags_in_chunks(starts: TokenFlags, size: int) -> Bool[Tensor, "batch chunks size"] | None:
    return None if starts is None else starts.unflatten(1, (-1, size))
