"""How fast each head forgets: two schedules, and tables of powers of the decay.

Everything starts in float64. In bfloat16 ``1 - 2**-9`` is 1.0, and in float32 so is ``1 - 2**-25``: a head that never
forgets.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.config_types import check_count
from retentive.shapes import LogDecay, Positions, TokenFlags


def log_decay_geometric(num_heads: int, device: torch.device | None = None) -> LogDecay:
    """``log(1 - 2**(-5 - head))``, from 31/32 upwards: the schedule of the released models.

    Used by torchscale, flash-linear-attention and the checkpoints made with them; equation 8 of the first versions of
    Sun et al. 2023 (arXiv:2307.08621).

    Raises:
        ValueError: If ``num_heads`` is below 1.
    """
    check_count("num_heads", num_heads)
    return torch.log1p(-torch.exp2(-5.0 - torch.arange(num_heads, dtype=torch.float64, device=device)))


def log_decay_linspace(num_heads: int, device: torch.device | None = None) -> LogDecay:
    """``log(1 - exp(linspace(log(1/32), log(1/512), num_heads)))``: the schedule of the paper's language models.

    Sun et al. 2023 (arXiv:2307.08621), section 3.1: the same range of decays, 31/32 to 511/512, for every model size.

    Raises:
        ValueError: If ``num_heads`` is below 1.
    """
    check_count("num_heads", num_heads)
    slowest, fastest = math.log(1 / 512), math.log(1 / 32)
    return torch.log1p(-torch.exp(torch.linspace(fastest, slowest, num_heads, dtype=torch.float64, device=device)))


@dataclass(frozen=True, slots=True)
class DecayTables:
    """The factors by which keys and states have decayed, inside chunks of ``size`` tokens; 0 where nothing is left.

    Rows and chunks that agree share one entry: without mask and starts ``rows`` and ``chunks`` are 1.
    """

    intra: Float[Tensor, "rows heads chunks size size"]
    """Of a key (last) at a query of its chunk."""

    query: Float[Tensor, "rows heads chunks size 1"]
    """Of the state before the chunk at a query."""

    key: Float[Tensor, "rows heads chunks size 1"]
    """Of a key at the end of its chunk."""

    chunk: Float[Tensor, "rows heads chunks 1 1"]
    """Of the state before the chunk at its end."""


def decay_tables(
    log_decay: LogDecay,
    size: int,
    dtype: torch.dtype,
    mask: TokenFlags = None,
    starts: TokenFlags = None,
) -> DecayTables:
    """Tables for chunks of ``size`` tokens.

    Every weight is a power of the decay whose exponent is the number of real tokens in between, counted in integers,
    so the only rounding is that of the power itself. Real tokens are counted by a clock that stands still at padding;
    between tokens on two sides of a document start the weight is 0.

    Args:
        log_decay: ``log(gamma)`` of each head.
        size: Tokens per chunk; the time of ``mask`` and ``starts`` is a multiple of it.
        dtype: Of the tables.
        mask: False at padding.
        starts: True where what came before is forgotten.
    """
    powers = decay_powers(log_decay, size, dtype)
    if mask is None and starts is None:
        return _shared_tables(powers, size)
    device = log_decay.device
    if mask is None:
        clock = torch.arange(1, size + 1, device=device).view(1, 1, size)
    else:
        clock = mask.unflatten(1, (-1, size)).cumsum(2)
    elapsed = clock.unsqueeze(3) - clock.unsqueeze(2)
    remaining = clock[:, :, -1:] - clock
    visible = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    # The entry after the powers 0 to size is 0, the weight of tokens that cannot be seen.
    nothing = size + 1
    if starts is None:
        elapsed = elapsed.where(visible, nothing)
        since, whole = clock, clock[:, :, -1:]
    else:
        segment = starts.unflatten(1, (-1, size)).cumsum(2)
        last = segment[:, :, -1:]
        elapsed = elapsed.where(visible & (segment.unsqueeze(3) == segment.unsqueeze(2)), nothing)
        since = clock.where(segment == 0, nothing)
        remaining = remaining.where(segment == last, nothing)
        whole = clock[:, :, -1:].where(last == 0, nothing)
    return DecayTables(
        intra=_look_up(powers, elapsed),
        query=_look_up(powers, since.unsqueeze(3)),
        key=_look_up(powers, remaining.unsqueeze(3)),
        chunk=_look_up(powers, whole.unsqueeze(3)),
    )


def padded_decay_tables(
    log_decay: LogDecay,
    size: int,
    dtype: torch.dtype,
    time: int,
    count: int,
    mask: TokenFlags = None,
    starts: TokenFlags = None,
) -> DecayTables:
    """`decay_tables` for ``time`` tokens that zeros fill up to whole chunks: nothing decays through these.

    Args:
        log_decay: As in `decay_tables`, like the next two.
        size: Tokens per chunk.
        dtype: Of the tables.
        time: Tokens that are not filled in.
        count: Chunks.
        mask: Of all columns, False at filled ones; None where every token is real.
        starts: Of all columns; only with a mask.
    """
    if mask is not None:
        return decay_tables(log_decay, size, dtype, mask, starts)
    powers = decay_powers(log_decay, size, dtype)
    shared, places = _shared_tables(powers, size), torch.arange(size, device=log_decay.device)
    begins = size * torch.arange(count, device=log_decay.device)
    real = (time - begins).clamp_max(size)[None, :, None]
    # What stands for keys that are filled in does not matter: they are 0.
    key = _look_up(powers, (real - 1 - places).clamp_min(0).unsqueeze(3))
    intra, query = (table.expand(-1, -1, count, -1, -1) for table in (shared.intra, shared.query))
    return DecayTables(intra=intra, query=query, key=key, chunk=_look_up(powers, real.unsqueeze(3)))


def decay_powers(log_decay: LogDecay, highest: int, dtype: torch.dtype) -> Float[Tensor, "heads powers"]:
    """``gamma ** 0`` to ``gamma ** highest`` of each head, then one 0."""
    exponents = torch.arange(highest + 1, dtype=torch.float64, device=log_decay.device)
    powers = torch.exp(log_decay.to(torch.float64).unsqueeze(1) * exponents)
    return torch.nn.functional.pad(powers.to(dtype), (0, 1))


def _shared_tables(powers: Float[Tensor, "heads powers"], size: int) -> DecayTables:
    """The tables of a chunk without padding and starts: ``intra[query, key] = gamma ** (query - key)``, 0 above."""
    falling = powers[:, :size].flip(1)
    windows = torch.nn.functional.pad(falling, (0, size - 1)).unfold(1, size, 1)
    return DecayTables(
        intra=windows.flip(1)[None, :, None],
        query=powers[None, :, None, 1 : size + 1, None],
        key=falling[None, :, None, :, None],
        chunk=powers[None, :, None, size : size + 1, None],
    )


def _look_up(
    powers: Float[Tensor, "heads powers"], exponents: Int[Tensor, "rows chunks first second"]
) -> Float[Tensor, "rows heads chunks first second"]:
    if torch.compiler.is_exporting():  # which cannot prove that a number of chunks divides what is split into them
        return powers[:, exponents].transpose(0, 1)
    found = powers.index_select(1, exponents.flatten())
    return found.view(-1, *exponents.shape).transpose(0, 1)


def score_scale(log_decay: LogDecay, positions: Positions) -> Float[Tensor, "#batch time heads 1"]:
    """``(gamma ** 0 + ... + gamma ** n) ** -0.5`` at position n: the paper's second normalisation (section 2.4)."""
    rate = log_decay.to(positions.device)
    tokens = (positions + 1).to(torch.float64).unsqueeze(-1)
    forgetful = torch.expm1(rate * tokens) / torch.expm1(rate)
    return torch.where(rate == 0, tokens, forgetful).rsqrt().unsqueeze(-1)
