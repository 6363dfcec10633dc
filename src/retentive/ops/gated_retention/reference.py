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

from retentive.ops.precision import state_dtype
from retentive.ops.retention.inputs import RetentionInputs
from retentive.shapes import RetentionMatrix, TokenLogDecay, Values


def gated_reference(inputs: RetentionInputs, log_decay: TokenLogDecay) -> tuple[Values, RetentionMatrix]:
    """The recurrence, token by token, in float64 whatever the inputs: slow; the other forms are tested against it.

    Args:
        inputs: Of all tokens.
        log_decay: ``log(gamma)`` of each head and token, at most 0.

    Returns:
        The outputs, and the state after the last token.
    """
    q, k, v = inputs.to(torch.float64)
    rate = log_decay.to(torch.float64)
    if inputs.mask is not None:
        rate = rate.masked_fill(~inputs.mask[:, None], 0)
    now = inputs.initial_state(torch.float64)
    outputs: list[Tensor] = []
    for time in range(q.shape[2]):
        gamma = rate[:, :, time].exp()
        if inputs.starts is not None:
            gamma = gamma.masked_fill(inputs.starts[:, None, time], 0)
        now = gamma[..., None, None] * now + torch.einsum("bhd,bhe->bhde", k[:, :, time], v[:, :, time])
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, :, time], now))
    return torch.stack(outputs, 2), now.to(state_dtype(inputs.query.dtype))
