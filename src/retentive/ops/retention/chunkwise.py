"""The chunkwise form: linear in time and memory, and the form to train with.

The sequence is cut into chunks. Inside a chunk all scores are taken at once, as in the parallel form; from chunk to
chunk only the state is carried, as in the recurrent form. All chunks' matrix products run as one batch, so that the
one sequential part is the carry of small matrices, an elementwise sum.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retentive.ops.precision import state_dtype
from retentive.ops.retention.chunks import (
    DEFAULT_CHUNK_SIZE,
    Chunks,
    ChunkStates,
    ValueChunks,
    check_chunk_size,
    chunk_gradients,
    in_chunks,
    piece_lengths,
    read_chunks,
    split_flags,
    split_time,
)
from retentive.ops.retention.decay import DecayTables, decay_tables
from retentive.ops.retention.inputs import (
    check_inputs,
    check_tokens,
    resolve_log_decay,
    retention_dtype,
    without_padding,
)
from retentive.shapes import LogDecay, Queries, RetentionMatrix, TokenMask, Values


def retention_chunkwise(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None = None,
    *,
    log_decay: LogDecay | None = None,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Values, RetentionMatrix]:
    """Run retention chunk by chunk (Sun et al. 2023, arXiv:2307.08621, eq. 7), for any length.

    The backward pass keeps the inputs and one state per chunk, and computes the scores again. It can be taken once: a
    second derivative needs `retention_parallel`.

    Args:
        query: Rotated and scaled by ``key_dim ** -0.5``; no scaling happens here.
        key: Rotated.
        value: What each token adds to the state.
        state: Where an earlier call stopped; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head, at most 0; ``None`` takes `log_decay_geometric`.
        mask: False at padding, anywhere: it neither decays nor adds, its output is 0 and it gets no gradient.
        starts: True where a document begins: what came before, the incoming state too, is forgotten.
        chunk_size: Tokens per chunk. Changes speed, never results.

    Returns:
        The outputs in the dtype of the inputs, and the state after the last token in float32 or wider. A float16
        output is infinite only where the true value is beyond float16: all sums are float32.

    Raises:
        TypeError: If dtypes differ or are not floating-point.
        ValueError: If ``chunk_size`` is below 1, shapes do not fit, or ``log_decay`` is above 0.
    """
    check_chunk_size(chunk_size)
    check_inputs(query, key, value, state)
    check_tokens(query, mask, starts)
    rate = resolve_log_decay(log_decay, query)
    dtype = retention_dtype(query)
    query, key, value = without_padding(query, key, value, mask)
    output, state = _all_chunks(query.to(dtype), key.to(dtype), value.to(dtype), state, rate, mask, starts, chunk_size)
    if mask is not None:
        output = output.masked_fill(~mask[:, None, :, None], 0)
    return output.to(query.dtype), state


def _all_chunks(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None,
    log_decay: LogDecay,
    mask: TokenMask | None,
    starts: TokenMask | None,
    chunk_size: int,
) -> tuple[Values, RetentionMatrix]:
    wide = state_dtype(query.dtype)
    after = None if state is None else state.to(wide)
    lengths = piece_lengths(query.shape[2], chunk_size)
    outputs: list[Tensor] = []
    pieces = zip(
        *(split_time(tensor, lengths) for tensor in (query, key, value)),
        *(split_flags(flags, lengths) for flags in (mask, starts)),
        strict=True,
    )
    for q, k, v, real, begun in pieces:
        size = min(chunk_size, q.shape[2])
        tables = decay_tables(log_decay, size, wide, real, begun)
        chunks = (in_chunks(tensor, size) for tensor in (q, k, v))
        output, after, _ = _ChunkwiseRetention.apply(
            *chunks, after, tables.intra, tables.query, tables.key, tables.chunk
        )
        outputs.append(output.flatten(2, 3))
    assert after is not None
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), after


class _ChunkwiseRetention(torch.autograd.Function):
    """`read_chunks` with a backward pass that keeps the inputs and the chunks' states."""

    @staticmethod
    def forward(
        query: Chunks,
        key: Chunks,
        value: ValueChunks,
        state: RetentionMatrix | None,
        intra: Tensor,
        query_decay: Tensor,
        key_decay: Tensor,
        chunk_decay: Tensor,
    ) -> tuple[ValueChunks, RetentionMatrix, ChunkStates]:
        return read_chunks(query, key, value, state, DecayTables(intra, query_decay, key_decay, chunk_decay))

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[ValueChunks, RetentionMatrix, ChunkStates]
    ) -> None:
        query, key, value, state, *tables = inputs
        states = output[2]
        ctx.mark_non_differentiable(states)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, key, value, states, *tables)
        ctx.has_state = state is not None

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_output: ValueChunks | None, d_after: RetentionMatrix | None, _: None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, states, *tables = ctx.saved_tensors
        gradients = chunk_gradients(query, key, value, states, DecayTables(*tables), d_output, d_after)
        d_state = gradients.state if ctx.has_state else None
        return gradients.query, gradients.key, gradients.value, d_state, None, None, None, None
