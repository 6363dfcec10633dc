"""The definition of gated retention, as the paper writes it. The forms beside it compute the same faster.

Retention whose decay depends on the token. Each head keeps one matrix. Every token fades what was there by a factor of
its own and adds its key times its value::

    state[t]  = gamma[t] * state[t - 1] + key[t]^T value[t]
    output[t] = query[t] state[t]
              = sum over j <= t of  gamma[j + 1] * ... * gamma[t] * (query[t] . key[j]) * value[j]

Sun et al. 2024 (YOCO, arXiv:2405.05254), section 3.1. Rotation by position and scaling have been applied before.
"""

import torch
from torch import Tensor

from retentive.ops.gated_retention.decay import check_log_decay
from retentive.ops.precision import state_dtype
from retentive.ops.retention.inputs import check_inputs, check_tokens, initial_state, without_padding
from retentive.shapes import Queries, RetentionMatrix, TokenLogDecay, TokenMask, Values


def gated_retention_reference(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None = None,
    *,
    log_decay: TokenLogDecay,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
) -> tuple[Values, RetentionMatrix]:
    """The recurrence, token by token, in float64 whatever the inputs: slow; the other forms are tested against it.

    Args:
        query: Rotated and scaled.
        key: Rotated.
        value: What each token adds to the state.
        state: Where an earlier call stopped; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head and token, at most 0.
        mask: False at padding, which neither decays nor adds, and whose output is 0.
        starts: True where a document begins: what came before, the incoming state too, is forgotten.

    Returns:
        The outputs, and the state after the last token.
    """
    check_inputs(query, key, value, state)
    check_tokens(query, mask, starts)
    check_log_decay(log_decay, query.shape[:3], "(batch, heads, time)")
    q, k, v = (tensor.to(torch.float64) for tensor in without_padding(query, key, value, mask))
    rate = log_decay.to(torch.float64)
    if mask is not None:
        rate = rate.masked_fill(~mask[:, None], 0)
    now = initial_state(state, key, value, torch.float64)
    outputs: list[Tensor] = []
    for time in range(q.shape[2]):
        gamma = rate[:, :, time].exp()
        if starts is not None:
            gamma = gamma.masked_fill(starts[:, None, time], 0)
        now = gamma[..., None, None] * now + torch.einsum("bhd,bhe->bhde", k[:, :, time], v[:, :, time])
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, :, time], now))
    output = torch.stack(outputs, 2)
    if mask is not None:
        output = output.masked_fill(~mask[:, None, :, None], 0)
    return output.to(query.dtype), now.to(state_dtype(query.dtype))
