"""Positions, padding and documents of the tokens of one call: made once per call, read by every layer."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from retentive.config_types import check_types
from retentive.layers.parameters.constants import constant
from retentive.layers.text_parts import Exchange, TextParts, meet
from retentive.ops.rotary import rotary_frequencies, rotary_tables
from retentive.ops.tracing import is_traced
from retentive.shapes import Positions, RotaryTable, TokenMask


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryConfig:
    """How queries and keys are rotated (Su et al. 2021, arXiv:2104.09864; see ``docs/theory/rotation.md``).

    Attributes:
        dim: Channels of one head; they are rotated in pairs.
        base: Tokens in which the slowest pair is rotated by about one radian.
        frequencies: ``retnet`` spaces the pairs so that the slowest is exactly ``1 / base`` (torchscale), ``standard``
            stops one step earlier (RoFormer, Llama, flash-linear-attention).
        pairs: ``interleaved`` rotates channels 0 and 1, 2 and 3, ...; ``half`` rotates channel i with i + dim / 2.
        scaling: Slows the rotation for longer texts; see `rotary_frequencies`.
    """

    dim: int
    base: float = 10000.0
    frequencies: Literal["retnet", "standard"] = "retnet"
    pairs: Literal["interleaved", "half"] = "interleaved"
    scaling: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.dim % 2:
            raise ValueError(
                f"rotation needs an even number of channels in a head, but key_dim is {self.dim}; choose an even "
                "key_dim, or no rotation (relative_position=False of a RetNet, positions='none' of a Transformer)."
            )
        if not self.base > 1:
            raise ValueError(f"rotary_base must be above 1, but is {self.base}.")
        if self.frequencies not in ("retnet", "standard"):
            raise ValueError(f"rotary_frequencies must be 'retnet' or 'standard', but is {self.frequencies!r}.")
        if self.pairs not in ("interleaved", "half"):
            raise ValueError(f"rotary_pairs must be 'interleaved' or 'half', but is {self.pairs!r}.")
        if self.scaling is not None and (
            len(self.scaling) not in (1, 4)
            or any(not number > 0 for number in self.scaling)
            or (len(self.scaling) == 4 and not self.scaling[1] < self.scaling[2])
        ):
            raise ValueError(
                f"rotary_scaling must be (factor,) or (factor, low, high, length), positive and low below high, but is "
                f"{self.scaling}."
            )

    def frequencies_on(self, device: torch.device) -> Float[Tensor, "pairs"]:
        """Radians per token of each pair of channels, in float64."""
        return rotary_frequencies(
            self.dim, base=self.base, frequencies=self.frequencies, scaling=self.scaling, device=device
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMask:
    """Which keys the tokens of one call may read: first those of the cache, then recalled ones, then the call's own.

    Attributes:
        allowed: True where a token may read a key; None where each reads all keys up to its own, or ``bias`` is given.
        bias: The same as a term that is added to scores, 0 or minus infinity; only where every token may read some key.
            Calls can share it.
        visible: Which keys the next call may read; None where all.
    """

    allowed: Bool[Tensor, "#batch 1 time total"] | None = None
    bias: Float[Tensor, "1 1 time total"] | None = None
    visible: Bool[Tensor, "batch total"] | None = None


@dataclass(frozen=True, kw_only=True)
class RotaryTables:
    """Cosines and sines of the rotation of each token; see `retentive.ops.rotary`."""

    cos: RotaryTable
    sin: RotaryTable

    @cached_property
    def complex(self) -> Complex[Tensor, "#batch 2 1 time pairs"]:
        """The rotation as complex numbers, of queries scaled by ``dim ** -0.5``, then of keys; made on first use."""
        rotation = torch.complex(self.cos, self.sin)
        return torch.stack((rotation * (2 * rotation.shape[-1]) ** -0.5, rotation), 1).unsqueeze(2)

    def columns(self, part: slice) -> "RotaryTables":
        """The tables of some of the tokens."""
        return RotaryTables(cos=self.cos[:, part], sin=self.sin[:, part])

    def followed_by(self, other: "RotaryTables") -> "RotaryTables":
        """The tables of these tokens, and of others after them."""
        return RotaryTables(cos=torch.cat((self.cos, other.cos), 1), sin=torch.cat((self.sin, other.sin), 1))


MaskKey = tuple[int, int, int | None, torch.dtype]
"""Cached tokens, tokens of the call, the window, and the dtype of scores."""

RotaryByConfig = Mapping[RotaryConfig, RotaryTables]
"""The tables of every rotation that some layer of a model needs."""


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Positions, padding and document starts of the tokens of one call.

    Attributes:
        positions: Position of each token in its document.
        next_position: Position that each row's next token will have.
        mask: True where a token is real; None where all are.
        starts: True where a document starts; None where none does.
        rotary: Tables of the rotations that the layers need.
        attention_mask: What attention may read; None where it follows from order, padding, documents and the window.
        parts: The parts of the text, of which other processes read the others at the same time; None for a whole text.
        masks_of_order: Masks that follow from order and a window alone, filled in by the first layer that needs one.
    """

    positions: Positions
    next_position: Int[Tensor, "batch"]
    mask: TokenMask | None = None
    starts: TokenMask | None = None
    rotary: RotaryByConfig = field(default_factory=lambda: MappingProxyType({}))
    attention_mask: AttentionMask | None = None
    parts: TextParts | None = None
    masks_of_order: dict[MaskKey, AttentionMask] = field(default_factory=lambda: {}, repr=False)

    @property
    def is_one_token(self) -> bool:
        """Whether the call is one token of every row, the whole text, without a mask or document starts of any kind."""
        plain = self.mask is None and self.starts is None and self.attention_mask is None and self.parts is None
        # False in compiled code: compilers do not fuse the complex numbers of a step.
        return plain and self.positions.shape[1] == 1 and not is_traced()

    def tables(self, rotary: RotaryConfig | None) -> RotaryTables | None:
        """The tables of one rotation; None without one."""
        return None if rotary is None else self.rotary[rotary]


def make_layout(
    position: Int[Tensor, "batch"] | None,
    batch: int,
    time: int,
    *,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    rotary: Collection[RotaryConfig] = (),
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    exchange: Exchange | None = None,
) -> BatchLayout:
    """Place ``time`` tokens after ``position``: padding takes no position, a document start begins again at 0.

    Args:
        position: Tokens each row has read of its current document; None is a new sequence.
        batch: Rows.
        time: Columns.
        mask: True where a token is real.
        starts: True at the first token of a document. At padding too, what came before is forgotten.
        rotary: The rotations that tables are made for.
        device: Where the tensors are made.
        dtype: Of the model; rotary tables are float32 or wider, their angles float64.
        exchange: The processes that each read a part of the text, of which these tokens are this one's; ``position`` is
            that before the whole text, and ``next_position`` that after it. None is a whole text.
    """
    if exchange is not None:
        own = make_layout(None, batch, time, mask=mask, starts=starts, device=device).next_position
        parts, (first, following) = meet(exchange, own, time, position, mask, starts)
        layout = make_layout(first, batch, time, mask=mask, starts=starts, rotary=rotary, device=device, dtype=dtype)
        return replace(layout, next_position=following, parts=parts)
    if mask is None and starts is None and time == 1 and position is not None:
        positions, following = position[:, None], position + 1
    elif mask is None and starts is None:
        offsets = torch.arange(time, device=device)
        positions = offsets[None] if position is None else position[:, None] + offsets
        following = torch.full((batch,), time, device=device) if position is None else position + time
    else:
        positions, following = _count(position, batch, time, mask, starts, device)
    tables = rotary_by_config(positions, rotary, dtype)
    return BatchLayout(positions=positions, next_position=following, mask=mask, starts=starts, rotary=tables)


def starts_at_tokens(starts: TokenMask, mask: TokenMask) -> "tuple[TokenMask, Bool[Tensor, 'batch']]":
    """Move each document start that stands at padding to the next real token of its row.

    Returns:
        The starts, all at real tokens, and the rows after whose last real token another document starts.
    """
    document = starts.long().cumsum(1)
    latest = document.where(mask, 0).cummax(1).values
    before = torch.cat((torch.zeros_like(latest[:, :1]), latest[:, :-1]), 1)
    return mask & (document > before), document[:, -1] > latest[:, -1]


def rotary_by_config(positions: Positions, rotary: Collection[RotaryConfig], dtype: torch.dtype) -> RotaryByConfig:
    """Make the tables of each rotation for tokens at ``positions``, float32 or wider; their angles are float64."""
    wide = torch.promote_types(dtype, torch.float32)
    tables: dict[RotaryConfig, RotaryTables] = {}
    for config in rotary:
        cos, sin = rotary_tables(positions, _frequencies(config, positions.device), wide)
        tables[config] = RotaryTables(cos=cos, sin=sin)
    return tables


@constant
def _frequencies(rotary: RotaryConfig, device: torch.device) -> Float[Tensor, "pairs"]:
    return rotary.frequencies_on(device)


def _count(
    position: Tensor | None,
    batch: int,
    time: int,
    mask: Tensor | None,
    starts: Tensor | None,
    device: torch.device | None,
) -> tuple[Tensor, Tensor]:
    """Positions where padding or document starts are, and the position after the last token."""
    clock = torch.arange(1, time + 1, device=device).expand(batch, time) if mask is None else mask.cumsum(1)
    begin = torch.zeros(batch, 1, dtype=torch.long, device=device) if position is None else -position[:, None]
    base = begin.expand(batch, time)
    if starts is not None:
        # The clock before a start is the base of its document; it only grows, so the latest start is the largest.
        before = (clock - 1 if mask is None else clock - mask.long()).where(starts, begin)
        base = torch.maximum(before.cummax(1).values, begin)
    return (clock - 1 - base).clamp_min(0), clock[:, -1] - base[:, -1]
