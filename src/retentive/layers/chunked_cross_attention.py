"""Chunked cross-attention as a layer, and which neighbours each token of a call reads (arXiv:2112.04426, 2.4)."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retentive.config_types import check_kind
from retentive.layers.cross_attention import CrossAttention, CrossAttentionConfig
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.token_place import TokenPlace
from retentive.ops.chunked_cross_attention import chunked_cross_attention
from retentive.ops.tracing import is_traced
from retentive.shapes import Hidden, TokenMask
from retentive.state import RaggedFields, RecurrentState


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourState(RecurrentState):
    """The neighbours that the next tokens read, as one layer's keys and values: encoded and projected once.

    Attributes:
        key: Keys of all neighbours side by side, rotated by their place in the neighbour.
        value: Values.
        real: True at tokens of neighbours, False at padding; None where all are tokens.
    """

    ragged: ClassVar[RaggedFields] = {"real": {"key": 2, "value": 2}}

    key: Float[Tensor, "batch heads read key_dim"]
    value: Float[Tensor, "batch heads read value_dim"]
    real: Bool[Tensor, "batch read"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "batch read"]:
        """Which entries are there."""
        batch, _, read, _ = self.key.shape
        return self.key.new_ones(batch, read, dtype=torch.bool) if self.real is None else self.real


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedChunks:
    """Neighbours of the chunks that end in a call, as one layer's keys and values.

    Attributes:
        key: Keys, rotated by their place in the neighbour.
        value: Values.
        real: True at tokens of neighbours, False at padding and missing neighbours; None where all are tokens.
    """

    key: Float[Tensor, "batch chunks heads read key_dim"]
    value: Float[Tensor, "batch chunks heads read value_dim"]
    real: Bool[Tensor, "batch chunks read"] | None

    @property
    def mask(self) -> Bool[Tensor, "batch chunks read"]:
        """Which tokens are there."""
        batch, chunks, _, read, _ = self.key.shape
        return self.key.new_ones(batch, chunks, read, dtype=torch.bool) if self.real is None else self.real


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedReads:
    """Which neighbours each token reads, where rows differ.

    Attributes:
        token: The token in each column of `chunked_cross_attention`; 0 in empty ones.
        column: The column of each token; 0 where it has none.
        reads_ended: Tokens that read neighbours of a chunk that ends in this call.
        reads_carried: Tokens that read the neighbours that the state brought.
        last: Number of the chunk whose neighbours the row's next token reads; -1 where none ended.
        keeps_carried: Rows whose next token still reads the neighbours that the state brought.
    """

    token: Int[Tensor, "batch columns"]
    column: Int[Tensor, "batch time"]
    reads_ended: TokenMask
    reads_carried: TokenMask
    last: Int[Tensor, "batch"]
    keeps_carried: Bool[Tensor, "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """Which neighbours each token of a call reads.

    A chunk's neighbours are read from its last token on, until the last token of the next chunk.

    Attributes:
        chunk_size: Tokens of a chunk.
        num_ended: Chunks that end in the call, in the row with the most of them.
        places: Place of each token in its chunk; negative before a document's first chunk.
        head: Tokens before the end of the first of these chunks, where rows agree.
        ragged: The same and more where they do not.
    """

    chunk_size: int
    num_ended: int
    places: Int[Tensor, "#batch time"]
    head: int
    ragged: RaggedReads | None = None


class _Text(NamedTuple):
    """What a single token of each row reads: which entries (None for all), and which rows have none."""

    key: Float[Tensor, "batch heads read key_dim"]
    value: Float[Tensor, "batch heads read value_dim"]
    allowed: Bool[Tensor, "batch read"] | None = None
    empty: Bool[Tensor, "batch 1"] | None = None


def _readable(carried: NeighbourState) -> _Text | None:
    """What a single token of each row reads; None if there is nothing in it."""
    key, value, real = carried.key, carried.value, carried.real
    if real is not None and real.shape[0] == 1 and not is_traced():  # without padding attention takes less time
        key, value, real = key[:, :, real[0]], value[:, :, real[0]], None
    if not key.shape[2]:
        return None
    key, value = key.contiguous(), value.contiguous()
    if real is None:
        return _Text(key, value)
    seeing = real.any(1, keepdim=True)
    # On a GPU this is not looked at, which would wait for it.
    if real.device.type == "cpu" and not is_traced() and bool(seeing.all()):
        return _Text(key, value, real)
    return _Text(key, value, real | ~seeing, ~seeing)


class ChunkedCrossAttention(nn.Module):
    """``x + attention(norm(x), neighbours)``, or ``norm(a * x + attention(x, neighbours))`` with a residual scale a.

    A token without neighbours is returned unchanged, to the last bit.
    """

    stepped = ("attention",)
    """See `Block`."""

    def __init__(
        self, config: CrossAttentionConfig, norm: NormConfig, dropout: float, residual_scale: float | None = None
    ) -> None:
        """Make the layer."""
        super().__init__()
        check_kind("config", config, CrossAttentionConfig)
        self.norm = Norm(config.hidden_size, norm)
        self.attention = CrossAttention(config)
        self.dropout = nn.Dropout(dropout)
        self.residual_scale = residual_scale

    def nothing(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> NeighbourState:
        """No neighbours."""
        config = self.attention.config
        empty = torch.zeros(batch, config.num_heads, 0, config.head_dim, device=device, dtype=dtype)
        return NeighbourState(key=empty, value=empty)

    def read(
        self,
        encoded: Float[Tensor, "batch chunks neighbours length memory"],
        real: Bool[Tensor, "batch chunks neighbours length"] | None,
    ) -> EndedChunks:
        """Return keys and values of encoded neighbours, side by side; their order does not matter."""
        batch, chunks, neighbours, length, _ = encoded.shape
        places = torch.arange(length, device=encoded.device).repeat(neighbours)[None]
        key, value = self.attention.key_value(encoded.flatten(2, 3).flatten(0, 1), places, length)
        return EndedChunks(
            key=key.unflatten(0, (batch, chunks)),
            value=value.unflatten(0, (batch, chunks)),
            real=None if real is None else real.flatten(2),
        )

    def forward(self, x: Hidden, carried: NeighbourState, ended: EndedChunks | None, reads: Reads) -> Hidden:
        """Let each token read its neighbours.

        Args:
            x: The residual stream.
            carried: Neighbours of the last chunk that ended before the call.
            ended: Those of the chunks that end in it; None where there are none.
            reads: Which token reads which.
        """
        if ended is None and not carried.key.shape[2]:
            return x
        size = reads.chunk_size
        # Place p of a chunk is place p + 1 of the attending chunk, which is shifted by m - 1 (eq. 6: i - i' + m - 1).
        places = (reads.places + 1) % size + size - 1
        normed = x if self.residual_scale is not None else self.norm(x)
        mix = partial(self._mixed, carried=carried, ended=ended, reads=reads)
        output = self.dropout(self.attention(normed, places, 2 * size - 1, mix))
        # What stands in place of a part, such as an adapter with a bias, may make something of nothing.
        seen = _seen(carried, ended, reads, x.shape[1])[..., None]
        if self.residual_scale is None:
            return x + output.masked_fill(~seen, 0)
        return torch.where(seen, self._add(x, output), x)

    def step(
        self, x: Float[Tensor, "batch hidden"], carried: NeighbourState, place: TokenPlace
    ) -> Float[Tensor, "batch hidden"]:
        """Let one token of each row, with which no chunk ends, read the neighbours that are carried.

        Args:
            x: The residual stream.
            carried: Neighbours of the last chunk that ended.
            place: Of the token in its chunk: the rotation is that of its query, see `forward`.
        """
        text = place.context.prepare(carried, _readable) if carried.key.shape[2] else None
        if text is None:
            return x
        read = x if self.residual_scale is not None else self.norm(x)
        attention, rotary = self.attention, self.attention.config.rotary
        rotation = None if rotary is None else place.key_rotation(rotary)
        mixed = attention.step(read, text.key, text.value, text.allowed, rotation)
        if text.empty is not None:
            mixed = mixed.masked_fill(text.empty, 0)
        added = self._add(x, self.dropout(attention.output_proj(mixed)))
        return added if text.empty is None else torch.where(text.empty, x, added)

    def _add(self, x: Tensor, output: Tensor) -> Tensor:
        return x + output if self.residual_scale is None else self.norm(self.residual_scale * x + output)

    def _mixed(self, query: Tensor, carried: NeighbourState, ended: EndedChunks | None, reads: Reads) -> Tensor:
        """What the heads read."""
        if reads.ragged is not None:
            return self._ragged(query, carried, ended, reads, reads.ragged)
        head = min(reads.head, query.shape[2])
        parts = [self._carried(query[:, :, :head], carried)] if head else []
        if ended is not None:
            parts.append(self._ended(query[:, :, head:], ended, reads))
        elif head < query.shape[2]:
            parts.append(torch.zeros_like(query[:, :, head:]))
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0]

    def _ragged(
        self, query: Tensor, carried: NeighbourState, ended: EndedChunks | None, reads: Reads, ragged: RaggedReads
    ) -> Tensor:
        """The same where rows differ: tokens are moved to the columns of their chunks, and back."""
        mixed = self._carried(query, carried).masked_fill(~ragged.reads_carried[:, None, :, None], 0)
        if ended is None:
            return mixed
        found = _columns(self._ended(_columns(query, ragged.token), ended, reads), ragged.column)
        return mixed + found.masked_fill(~ragged.reads_ended[:, None, :, None], 0)

    def _carried(self, query: Tensor, carried: NeighbourState) -> Tensor:
        if not carried.key.shape[2]:
            return torch.zeros_like(query)
        carried = in_dtype_of(carried, query)
        return chunked_cross_attention(
            query,
            carried.key[:, None],
            carried.value[:, None],
            None if carried.real is None else carried.real[:, None],
            chunk_size=query.shape[2],
            dropout=self.attention.dropout,
        )

    def _ended(self, query: Tensor, ended: EndedChunks, reads: Reads) -> Tensor:
        return chunked_cross_attention(
            query,
            ended.key,
            ended.value,
            ended.real,
            chunk_size=reads.chunk_size,
            dropout=self.attention.dropout,
        )


def in_dtype_of(carried: NeighbourState, other: Tensor) -> NeighbourState:
    """Return the same keys and values in the dtype of ``other``: under autocast they were narrower."""
    if carried.key.dtype == other.dtype:
        return carried
    return NeighbourState(key=carried.key.to(other.dtype), value=carried.value.to(other.dtype), real=carried.real)


def _columns(heads: Tensor, index: Tensor) -> Tensor:
    """Columns of every head by index."""
    return heads.gather(2, index[:, None, :, None].expand(-1, heads.shape[1], -1, heads.shape[3]))


def _seen(carried: NeighbourState, ended: EndedChunks | None, reads: Reads, time: int) -> TokenMask:
    """Which tokens have a neighbour to read."""
    before = carried.mask.any(1, keepdim=True)
    after = None if ended is None else ended.mask.any(2)
    if reads.ragged is not None:
        seen = reads.ragged.reads_carried & before
        if after is None:
            return seen
        return seen | (reads.ragged.reads_ended & after.gather(1, reads.ragged.column // reads.chunk_size))
    head = min(reads.head, time)
    if after is None:
        after = before.new_zeros(before.shape[0], -(-(time - head) // reads.chunk_size))
    body = after.repeat_interleave(reads.chunk_size, 1)[:, : time - head]
    return torch.cat((before.expand(-1, head), body), 1)
