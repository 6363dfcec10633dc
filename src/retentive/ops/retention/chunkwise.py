"""The chunkwise form: linear in time and memory, and the form to train with.

The sequence is cut into chunks. Inside a chunk all scores are taken at once, as in the parallel form; from chunk to
chunk only the state is carried, as in the recurrent form. All chunks' matrix products run as one batch, so that the
one sequential part is the carry of small matrices, an elementwise sum.
"""

from typing import Any

import torch
from torch import Tensor

from retentive.ops.kernels.choice import has_kernel
from retentive.ops.kernels.chunkwise import chunkwise_by_kernels
from retentive.ops.precision import state_dtype
from retentive.ops.retention.chunks import (
    ChunkStates,
    ValueChunks,
    check_chunk_size,
    in_chunks,
    in_filled_chunks,
    piece_lengths,
    read_chunks_plainly,
    split_flags,
    split_time,
    without_filling,
)
from retentive.ops.retention.inputs import RetentionInputs, retention_dtype
from retentive.ops.retention.protocol import Decay
from retentive.ops.tracing import is_traced
from retentive.shapes import RetentionMatrix, Values


def chunkwise(inputs: RetentionInputs, decay: Decay, chunk_size: int) -> tuple[Values, RetentionMatrix]:
    """Read whole chunks, then the remainder (Sun et al. 2023, arXiv:2307.08621, eq. 7).

    The backward pass keeps the inputs and one state per chunk, and computes the scores again. Where a gradient is
    differentiated, and in compiled or functionally transformed code, plain operations take its place. On a GPU that has
    them, `retentive.ops.kernels` compute the same.
    """
    check_chunk_size(chunk_size)
    if is_traced():
        return _in_plain_operations(inputs, decay, chunk_size)
    if has_kernel(inputs.query, inputs.key, inputs.value):
        return chunkwise_by_kernels(inputs, decay, chunk_size, _in_plain_operations)
    dtype = retention_dtype(inputs.query)
    after = None if inputs.state is None else inputs.state.to(state_dtype(dtype))
    lengths = piece_lengths(inputs.query.shape[2], chunk_size)
    outputs: list[Tensor] = []
    pieces = zip(
        *(split_time(tensor, lengths) for tensor in inputs.to(dtype)),
        *(split_flags(flags, lengths) for flags in (inputs.mask, inputs.starts)),
        decay.split(lengths),
        strict=True,
    )
    for query, key, value, mask, starts, fading in pieces:
        size = min(chunk_size, query.shape[2])
        q, k, v = (in_chunks(tensor, size) for tensor in (query, key, value))
        output, after = fading.over_chunks(q, k, v, after, (mask, starts))
        outputs.append(output.flatten(2, 3))
    assert after is not None
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), after


def _in_plain_operations(inputs: RetentionInputs, decay: Decay, chunk_size: int) -> tuple[Values, RetentionMatrix]:
    """The same as one program for every length: zeros fill up the last chunk, and nothing decays through them."""
    dtype, time, mask, starts = retention_dtype(inputs.query), inputs.query.shape[2], inputs.mask, inputs.starts
    if starts is not None and mask is None:
        mask = torch.ones_like(starts)
    mask, starts = (
        None if each is None else in_filled_chunks(each, chunk_size, 1).flatten(1) for each in (mask, starts)
    )
    query, key, value = (in_filled_chunks(tensor, chunk_size) for tensor in inputs.to(dtype))
    tables = decay.filled_tables(query.shape[2], chunk_size, time, state_dtype(dtype), (mask, starts))
    state = None if inputs.state is None else inputs.state.to(state_dtype(dtype))
    output, after = read_chunks_plainly(query, key, value, state, tables)
    return without_filling(output.flatten(2, 3), time), after


class ChunkwiseFunction(torch.autograd.Function):
    """What `read_chunks` keeps for its backward pass: its inputs, the chunks' states, and what the decays come of."""

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[ValueChunks, RetentionMatrix, ChunkStates]
    ) -> None:
        """Keep them; ``inputs`` are query, key, value, state and the tensors of the decay."""
        query, key, value, state, *decay = inputs
        states = output[2]
        ctx.mark_non_differentiable(states)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, key, value, state, states, *decay)
