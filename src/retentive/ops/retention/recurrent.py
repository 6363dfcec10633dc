"""The recurrent form: one token, constant time and memory."""

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.precision import state_dtype, without_autocast
from retentive.ops.retention.inputs import RetentionInputs, check_inputs, initial_state, resolve_log_decay
from retentive.ops.retention.protocol import Decay
from retentive.shapes import LogDecay, RetentionMatrix, Values


def retention_recurrent(
    query: Float[Tensor, "batch heads key_dim"],
    key: Float[Tensor, "batch heads key_dim"],
    value: Float[Tensor, "batch heads value_dim"],
    state: RetentionMatrix | None = None,
    *,
    log_decay: LogDecay | None = None,
) -> tuple[Float[Tensor, "batch heads value_dim"], RetentionMatrix]:
    """Run retention for one token (Sun et al. 2023, arXiv:2307.08621, eq. 6).

    Args:
        query: Of the one token, rotated and scaled by ``key_dim ** -0.5``.
        key: Of the one token, rotated.
        value: What the token adds to the state.
        state: Where an earlier call stopped, left as it is; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head, at most 0; ``None`` takes `log_decay_geometric`.

    Returns:
        The output in the dtype of the inputs, and the state after the token in float32 or wider.

    Raises:
        TypeError: If dtypes differ or are not floating-point.
        ValueError: If shapes do not fit, or ``log_decay`` is above 0.
    """
    check_inputs(query, key, value, state, "(batch, heads, dim)")
    decay = recurrent_decay(resolve_log_decay(log_decay, query), state_dtype(query.dtype))
    before = initial_state(state, key, value, decay.dtype)
    return recurrent_step(query, key, value, before, decay)


def recurrent_decay(log_decay: LogDecay, dtype: torch.dtype) -> Float[Tensor, "heads 1 1"]:
    """``gamma`` as `recurrent_step` takes it: from float64, rounded once."""
    return log_decay.exp().to(dtype)[:, None, None]


def recurrent_step(
    query: Float[Tensor, "batch heads key_dim"],
    key: Float[Tensor, "batch heads key_dim"],
    value: Float[Tensor, "batch heads value_dim"],
    state: RetentionMatrix,
    decay: Float[Tensor, "*rows heads 1 1"],
    *,
    overwrite: bool = False,
) -> tuple[Float[Tensor, "batch heads value_dim"], RetentionMatrix]:
    """`retention_recurrent` without its checks, for the inner loop of a decoder: ``decay`` from `recurrent_decay`.

    With ``overwrite``, the new state is written over the old one, without gradients: pass a copy if you keep it.
    """
    dtype = query.dtype
    if dtype != state.dtype:
        query, key, value = query.to(state.dtype), key.to(state.dtype), value.to(state.dtype)
    batch, heads, key_dim, value_dim = state.shape
    # In place on the decayed state: large states are limited by memory bandwidth, and new memory costs more.
    faded = state.mul_(decay) if overwrite else state * decay
    after = faded.addcmul_(key.unsqueeze(3), value.unsqueeze(2))
    flat, rows = after.flatten(0, 1), query.reshape(batch * heads, 1, key_dim)
    output = torch.bmm(rows, flat)
    if output.dtype is not state.dtype:  # autocast has rounded it
        with without_autocast(state.device):
            output = torch.bmm(rows, flat)
    output = output.view(batch, heads, value_dim)
    return output if dtype is state.dtype else output.to(dtype), after


def recurrent(inputs: RetentionInputs, decay: Decay) -> tuple[Values, RetentionMatrix]:
    """Run `recurrent_step` token by token."""
    mask, starts, wide = inputs.mask, inputs.starts, state_dtype(inputs.query.dtype)
    now = inputs.initial_state(wide)
    tokens = (tensor.unbind(2) for tensor in (inputs.query, inputs.key, inputs.value))
    outputs: list[Tensor] = []
    steps = zip(*tokens, decay.steps(inputs.query.shape[2], wide), strict=True)
    for time, (query, key, value, gamma) in enumerate(steps):
        if starts is not None:
            now = now.masked_fill(starts[:, time, None, None, None], 0)
        output, after = recurrent_step(query, key, value, now, gamma)
        now = after if mask is None else torch.where(mask[:, time, None, None, None], after, now)
        outputs.append(output)
    return torch.stack(outputs, 2), now
