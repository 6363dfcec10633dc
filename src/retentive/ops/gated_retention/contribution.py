"""What a part of a text adds to the state of gated retention, without its outputs."""

import math

import torch

from retentive.ops.gated_retention.decay import effective_log_decay
from retentive.ops.precision import state_dtype
from retentive.ops.retention.contribution import Contribution, decayed_sum
from retentive.shapes import Queries, TokenFlags, TokenLogDecay, Values


def gated_retention_contribution(
    key: Queries, value: Values, *, log_decay: TokenLogDecay, mask: TokenFlags = None, starts: TokenFlags = None
) -> Contribution:
    """Return how tokens change the state of `gated_retention`, whose arguments these are."""
    # A decay that is 0 in the state's dtype stays 0, and -inf becomes a number that can be subtracted.
    lowest = 1.25 * math.log(torch.finfo(state_dtype(key.dtype)).tiny)
    clock = effective_log_decay(log_decay, mask, starts).clamp_min(lowest).cumsum(2)
    return decayed_sum(key, value, clock[..., -1:] - clock, clock[..., -1:], mask, starts)
