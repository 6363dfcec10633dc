"""What a part of a text adds to the state, without its outputs: to read parts of one text at the same time.

The state after a part is linear in the state before it::

    after = left * before + added

so ``left`` and ``added``, which ask for nothing outside the part, are all that others need to know of it (LASP-2,
Sun et al. 2025, arXiv:2502.07563, with decays).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.precision import state_dtype, without_autocast
from retentive.shapes import LogDecay, Queries, RetentionMatrix, TokenFlags, Values


class Contribution(NamedTuple):
    """How a part of a text changes the state: ``after = left * before + added``.

    Attributes:
        added: The state after the part where nothing was before.
        left: The share of the state before that is left after the part; 0 where a document begins in it.
    """

    added: RetentionMatrix
    left: Float[Tensor, "batch heads 1 1"]


def retention_contribution(
    key: Queries, value: Values, *, log_decay: LogDecay, mask: TokenFlags = None, starts: TokenFlags = None
) -> Contribution:
    """Return how tokens change the state of `retention`, whose arguments these are."""
    real = torch.ones_like(key[:1, 0, :, 0], dtype=torch.bool) if mask is None else mask
    clock = real.cumsum(1)[:, None]
    rate = log_decay.to(device=key.device, dtype=torch.float64)[:, None]
    # Real tokens are counted in integers, so that the only rounding is that of the power itself.
    return decayed_sum(key, value, rate * (clock[..., -1:] - clock), rate * clock[..., -1:], mask, starts)


def decayed_sum(
    key: Queries,
    value: Values,
    since: Float[Tensor, "rows heads time"],
    whole: Float[Tensor, "rows heads 1"],
    mask: TokenFlags,
    starts: TokenFlags,
) -> Contribution:
    """Sum ``key value^T``, each decayed to the end of the part.

    Args:
        key: Rotated.
        value: What each token adds to the state.
        since: Logarithm of the decay from each token to the end.
        whole: Logarithm of the decay over the whole part.
        mask: False at padding.
        starts: True where what came before is forgotten.
    """
    dtype = state_dtype(key.dtype)
    weight, left = since.exp().to(dtype), whole.exp().to(dtype)
    if starts is not None:
        document = starts.cumsum(1)[:, None]
        weight = weight.masked_fill(document != document[..., -1:], 0)
        left = left.masked_fill(document[..., -1:] != 0, 0)
    if mask is not None:
        padding = ~mask[:, None, :, None]
        key, value = key.masked_fill(padding, 0), value.masked_fill(padding, 0)
    with without_autocast(key.device):
        added = (key.to(dtype) * weight[..., None]).mT @ value.to(dtype)
    return Contribution(added, left[..., None].expand(*added.shape[:2], 1, 1))
