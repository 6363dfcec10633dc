"""The chunkwise form by kernels, with its derivatives."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retentive.ops.kernels.launch import Launch
from retentive.ops.precision import state_dtype
from retentive.ops.retention.inputs import Flags, RetentionInputs
from retentive.ops.retention.protocol import Decay
from retentive.ops.tracing import differentiable_gradients
from retentive.shapes import Queries, RetentionMatrix, Values

PlainChunkwise = Callable[[RetentionInputs, Decay, int], tuple[Values, RetentionMatrix]]


def chunkwise_by_kernels(
    inputs: RetentionInputs, decay: Decay, chunk_size: int, plainly: PlainChunkwise
) -> tuple[Values, RetentionMatrix]:
    """Run retention over a sequence by Triton kernels, any length in one call.

    The backward pass keeps the inputs and one state per chunk, and computes the scores again, as plain operations do.

    Args:
        inputs: Of all tokens.
        decay: Of each head, or of each head and token.
        chunk_size: Tokens per chunk; a tile has the power of two that is not below, from 16 to 64.
        plainly: The same in plain operations, for gradients that are differentiated.
    """
    size = min(64, max(16, 1 << (chunk_size - 1).bit_length()))
    state = None if inputs.state is None else inputs.state.to(state_dtype(inputs.query.dtype))
    output, after, _ = _KernelRetention.apply(
        inputs.query,
        inputs.key,
        inputs.value,
        state,
        decay.log_decay,
        decay,
        (inputs.mask, inputs.starts),
        size,
        plainly,
    )
    return output, after


class _KernelRetention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Queries,
        key: Queries,
        value: Values,
        state: RetentionMatrix | None,
        log_decay: Tensor,
        decay: Decay,
        flags: Flags,
        size: int,
        plainly: PlainChunkwise,
    ) -> tuple[Values, RetentionMatrix, Tensor]:
        in_chunks = decay.filled_log_decay(size, query.shape[2], flags)
        output, after, states = Launch(query, key, value, in_chunks).outputs(state)
        ctx.mark_non_differentiable(states)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, key, value, state, states, in_chunks, log_decay, *flags)
        ctx.decay, ctx.size, ctx.plainly = decay, size, plainly
        return output, after, states

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_output: Values | None, d_after: RetentionMatrix | None, _: None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, state, states, in_chunks, log_decay, *flags = ctx.saved_tensors
        if torch.is_grad_enabled():

            def again(query: Queries, key: Queries, value: Values, state: RetentionMatrix | None, rate: Tensor):
                inputs = RetentionInputs(query, key, value, state, *flags)
                return ctx.plainly(inputs, dataclasses.replace(ctx.decay, log_decay=rate), ctx.size)

            found = differentiable_gradients(again, (query, key, value, state, log_decay), (d_output, d_after))
            return *found, None, None, None, None
        of_decay = bool(ctx.needs_input_grad[4])
        launch = Launch(query, key, value, in_chunks)
        d_query, d_key, d_value, d_state, d_rate = launch.gradients(states, d_output, d_after, of_decay=of_decay)
        if d_rate is not None:
            d_rate = d_rate.flatten(2)[:, :, : query.shape[2]].to(log_decay.dtype)
        return d_query, d_key, d_value, None if state is None else d_state, d_rate, None, None, None, None
