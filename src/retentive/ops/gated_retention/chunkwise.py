"""The chunkwise form: linear in time and memory, and the form to train with.

As in retention, all chunks' matrix products run as one batch and the state alone goes from chunk to chunk. What differs
is that each chunk has decay tables of its own, and that they have a gradient.
"""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.autograd.function import once_differentiable

from retentive.ops.gated_retention.decay import Chunked, check_log_decay, effective_log_decay, token_decay_tables
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
from retentive.ops.retention.inputs import check_inputs, check_tokens, retention_dtype, without_padding
from retentive.shapes import Queries, RetentionMatrix, TokenLogDecay, TokenMask, Values


def gated_retention_chunkwise(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None = None,
    *,
    log_decay: TokenLogDecay,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Values, RetentionMatrix]:
    """Run gated retention chunk by chunk (Sun et al. 2024, arXiv:2405.05254, section 3.1), for any length.

    The backward pass keeps the inputs and one state per chunk, and computes decays and scores again. It can be taken
    once: a second derivative needs `gated_retention_parallel`.

    Args:
        query: Rotated and scaled by ``key_dim ** -0.5``; no scaling happens here.
        key: Rotated.
        value: What each token adds to the state.
        state: Where an earlier call stopped; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head and token, at most 0; ``-inf`` forgets everything before. Its values
            are not checked.
        mask: False at padding, anywhere: it neither decays nor adds, its output is 0 and it gets no gradient.
        starts: True where a document begins: what came before, the incoming state too, is forgotten.
        chunk_size: Tokens per chunk. Changes speed, never results.

    Returns:
        The outputs in the dtype of the inputs, and the state after the last token in float32 or wider. A float16
        output is infinite only where the true value is beyond float16: all sums are float32.

    Raises:
        TypeError: If dtypes differ or are not floating-point.
        ValueError: If ``chunk_size`` is below 1, or shapes do not fit.
    """
    check_chunk_size(chunk_size)
    check_inputs(query, key, value, state)
    check_tokens(query, mask, starts)
    check_log_decay(log_decay, query.shape[:3], "(batch, heads, time)")
    dtype = retention_dtype(query)
    rate = effective_log_decay(log_decay, mask, starts)
    query, key, value = without_padding(query, key, value, mask)
    output, state = _all_chunks(query.to(dtype), key.to(dtype), value.to(dtype), state, rate, starts, chunk_size)
    if mask is not None:
        output = output.masked_fill(~mask[:, None, :, None], 0)
    return output.to(query.dtype), state


def _all_chunks(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None,
    log_decay: TokenLogDecay,
    starts: TokenMask | None,
    chunk_size: int,
) -> tuple[Values, RetentionMatrix]:
    after = None if state is None else state.to(state_dtype(query.dtype))
    lengths = piece_lengths(query.shape[2], chunk_size)
    outputs: list[Tensor] = []
    pieces = (split_time(tensor, lengths) for tensor in (query, key, value, log_decay))
    for *inputs, begun in zip(*pieces, split_flags(starts, lengths), strict=True):
        size = min(chunk_size, inputs[0].shape[2])
        q, k, v, rate = (in_chunks(tensor, size) for tensor in inputs)
        begun = None if begun is None else begun.unflatten(1, (-1, size))
        output, after, _ = _ChunkwiseGatedRetention.apply(q, k, v, after, rate, begun)
        outputs.append(output.flatten(2, 3))
    assert after is not None
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), after


class _ChunkwiseGatedRetention(torch.autograd.Function):
    """`read_chunks` with a backward pass that keeps the inputs and the chunks' states."""

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
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[ValueChunks, RetentionMatrix, ChunkStates]
    ) -> None:
        query, key, value, state, log_decay, starts = inputs
        states = output[2]
        ctx.mark_non_differentiable(states)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, key, value, states, log_decay, starts)
        ctx.has_state = state is not None

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_output: ValueChunks | None, d_after: RetentionMatrix | None, _: None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, states, log_decay, starts = ctx.saved_tensors
        tables = token_decay_tables(log_decay, states.dtype, starts)
        gradients = chunk_gradients(query, key, value, states, tables, d_output, d_after, of_decay=True)
        assert gradients.log_decay is not None
        d_state = gradients.state if ctx.has_state else None
        return gradients.query, gradients.key, gradients.value, d_state, gradients.log_decay.to(log_decay.dtype), None
