"""Decays of each head and token: how they are made, and tables of their products.

A product of decays is computed as the exponential of a sum of logarithms. Sums of a chunk are taken in float64 and
subtracted there, so that a weak decay is exact beside a strong one.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retentive.ops.precision import state_dtype
from retentive.ops.retention.decay import DecayTables
from retentive.ops.tracing import is_transformed
from retentive.shapes import TokenFlags, TokenLogDecay

Chunked = Float[Tensor, "batch heads chunks size"]


def log_decay_gate(logits: Float[Tensor, "..."], temperature: float = 16.0) -> Float[Tensor, "..."]:
    """``log(sigmoid(logits) ** (1 / temperature))``, in float32 or wider (arXiv:2405.05254, section 3.1).

    Sigmoid and root are never computed by themselves: in bfloat16 a sigmoid above 0.998 is 1, a head that never
    forgets.

    Args:
        logits: A projection of each token, one number a head.
        temperature: The larger, the closer all decays are to 1; 16 in the paper.

    Raises:
        ValueError: If ``temperature`` is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, but is {temperature}.")
    return torch.nn.functional.logsigmoid(logits.to(state_dtype(logits.dtype))) / temperature


def check_log_decay(log_decay: Float[Tensor, "..."], expected: tuple[int, ...], names: str) -> None:
    """Validate shape and dtype of ``log_decay``; its values are not read, which would stall an accelerator.

    Raises:
        TypeError: If it is not floating-point.
        ValueError: If it is not one number for each head and token.
    """
    if not log_decay.is_floating_point():
        raise TypeError(f"log_decay must be of a floating-point dtype, but is {log_decay.dtype}.")
    if log_decay.shape != expected:
        raise ValueError(
            f"log_decay must have the shape {names} = {tuple(expected)}, but has {tuple(log_decay.shape)}; expand "
            "decays that are the same for all tokens."
        )


def effective_log_decay(log_decay: TokenLogDecay, mask: TokenFlags, starts: TokenFlags) -> TokenLogDecay:
    """Put 0 at padding, which does not decay, and at starts, where nothing is left to decay; in float64."""
    log_decay = log_decay.to(torch.float64)
    if mask is not None:
        log_decay = log_decay.masked_fill(~mask[:, None], 0)
    return log_decay if starts is None else log_decay.masked_fill(starts[:, None], 0)


def token_decay(log_decay: Float[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "... 1 1"]:
    """``gamma`` as `recurrent_step` takes it: computed in ``dtype`` or wider, rounded once."""
    return log_decay.to(torch.promote_types(log_decay.dtype, dtype)).exp().to(dtype)[..., None, None]


def token_decay_tables(
    log_decay: Chunked, dtype: torch.dtype, starts: Bool[Tensor, "batch chunks size"] | None = None
) -> DecayTables:
    """Tables for chunks whose tokens have decays of their own.

    Every exponent is at most 0, so nothing overflows. What decays below the range of ``dtype`` is 0.

    Args:
        log_decay: From `effective_log_decay`, in chunks.
        dtype: Of the tables.
        starts: True where what came before is forgotten, in chunks.
    """
    # A decay that is 0 in this dtype stays 0, and -inf becomes a number that can be subtracted.
    clock = log_decay.clamp_min(1.25 * math.log(torch.finfo(dtype).tiny)).cumsum(3)
    last = clock[..., -1:]
    intra = _intra(clock, dtype)
    query, key, chunk = (exponent.exp().to(dtype) for exponent in (clock, last - clock, last))
    if starts is not None:
        segment = starts.cumsum(2)[:, None]
        intra = intra.masked_fill(segment.unsqueeze(4) != segment.unsqueeze(3), 0)
        query = query.masked_fill(segment != 0, 0)
        key = key.masked_fill(segment != segment[..., -1:], 0)
        chunk = chunk.masked_fill(segment[..., -1:] != 0, 0)
    return DecayTables(intra=intra, query=query[..., None], key=key[..., None], chunk=chunk[..., None])


def _intra(clock: Chunked, dtype: torch.dtype) -> Float[Tensor, "batch heads chunks size size"]:
    """``exp(clock[query] - clock[key])``, 0 for later keys, whose exponents would be positive."""
    if clock.requires_grad or is_transformed():
        # Its gradient is summed in float64 too, where what each token reads of its own key cancels exactly.
        return (clock.unsqueeze(4) - clock.unsqueeze(3)).clamp_max(0).to(dtype).exp().tril()
    # The same in place, over two parts of ``dtype``: half the time of a pass over float64.
    coarse = clock.to(dtype)
    fine = (clock - coarse).to(dtype)
    elapsed = coarse.unsqueeze(4) - coarse.unsqueeze(3)
    elapsed.add_(fine.unsqueeze(4)).sub_(fine.unsqueeze(3))
    return elapsed.clamp_max_(0).exp_().tril_()
