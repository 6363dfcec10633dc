"""The definition of retention, as the paper writes it. The forms beside it compute the same faster.

Each head keeps one matrix. Every token adds its key times its value, and what was there fades by ``gamma``::

    state[t]  = gamma * state[t - 1] + key[t]^T value[t]
    output[t] = query[t] state[t]
              = sum over j <= t of  gamma ** (t - j) * (query[t] . key[j]) * value[j]

Sun et al. 2023 (arXiv:2307.08621), equations 1 to 5. Rotation by position and scaling have been applied before.
"""

import torch
from torch import Tensor

from retentive.ops.precision import state_dtype
from retentive.ops.retention.inputs import RetentionInputs
from retentive.shapes import LogDecay, Queries, RetentionMatrix, TokenFlags, Values


def reference(inputs: RetentionInputs, log_decay: LogDecay) -> tuple[Values, RetentionMatrix]:
    """The plain sum over the past, in float64 whatever the inputs: slow, and what every other form is tested against.

    Args:
        inputs: Of all tokens.
        log_decay: ``log(gamma)`` of each head.

    Returns:
        The outputs, and the state after the last token.
    """
    rate = log_decay.to(torch.float64)[:, None]
    q, k, v = inputs.to(torch.float64)
    before = inputs.initial_state(torch.float64)
    clock, segment = _clock(q, inputs.mask), _segment(q, inputs.starts)
    outputs: list[Tensor] = []
    for now in range(q.shape[2]):
        past = slice(0, now + 1)
        weight = torch.exp(rate * (clock[:, None, now, None] - clock[:, None, past]))
        weight = weight * (segment[:, None, now, None] == segment[:, None, past])
        score = weight * torch.einsum("bhd,bhjd->bhj", q[:, :, now], k[:, :, past])
        fading = torch.exp(rate * clock[:, None, now, None]) * (segment[:, None, now, None] == 0)
        outputs.append(
            torch.einsum("bhj,bhje->bhe", score, v[:, :, past])
            + fading * torch.einsum("bhd,bhde->bhe", q[:, :, now], before)
        )
    weight = torch.exp(rate * (clock[:, None, -1:] - clock[:, None])) * (segment[:, None, -1:] == segment[:, None])
    fading = torch.exp(rate * clock[:, None, -1:]) * (segment[:, None, -1:] == 0)
    after = fading[..., None] * before + torch.einsum("bhj,bhjd,bhje->bhde", weight, k, v)
    return torch.stack(outputs, 2), after.to(state_dtype(inputs.query.dtype))


def _clock(query: Queries, mask: TokenFlags) -> Tensor:
    """Real tokens so far, this one included."""
    batch, _, time, _ = query.shape
    real = query.new_ones((batch, time), dtype=torch.bool) if mask is None else mask
    return real.cumsum(1)


def _segment(query: Queries, starts: TokenFlags) -> Tensor:
    """Documents begun in this call so far; those of segment 0 see the incoming state."""
    batch, _, time, _ = query.shape
    begun = query.new_zeros((batch, time), dtype=torch.bool) if starts is None else starts
    return begun.cumsum(1)
