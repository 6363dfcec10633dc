"""Positions and masks of the columns of one step, ``[read memory][text][write memory]``."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from retentive.layers.batch_layout import (
    AttentionMask,
    BatchLayout,
    RotaryByConfig,
    RotaryConfig,
    rotary_by_config,
)
from retentive.layers.mixers.protocol import Recalled
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.segment_parts import Rows, SegmentPart
from retentive.shapes import Hidden, Positions, TokenFlags, TokenMask


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Keys from before a step that its columns may read: how many, and which of them are real.

    Attributes:
        cached: Keys of the unfinished segment of an earlier call.
        cached_real: Which of them are there for a row; None where all are.
        recalled: Tokens of the segment before.
        recalled_real: Which of them are there for a row; None where all are.
    """

    cached: int = 0
    cached_real: Bool[Tensor, "batch cached"] | None = None
    recalled: int = 0
    recalled_real: Bool[Tensor, "batch recalled"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentLayout:
    """The columns of one step.

    Attributes:
        reads: Columns of the read memory.
        texts: Columns of text.
        writes: Columns of the write memory.
        layout: Of all columns.
        recalled: Tables of the rotations of what is recalled.
    """

    reads: int
    texts: int
    writes: int
    layout: BatchLayout
    recalled: RotaryByConfig

    @property
    def text(self) -> slice:
        """The columns of text."""
        return slice(self.reads, self.reads + self.texts)

    def write_layout(self) -> BatchLayout:
        """The layout of the write slots alone, for a block in which all other columns are recalled."""
        first, layout = self.text.stop, self.layout
        attention_mask = AttentionMask() if layout.attention_mask is None else layout.attention_mask
        return BatchLayout(
            positions=layout.positions[:, first:],
            next_position=layout.next_position,
            attention_mask=AttentionMask(
                allowed=None if attention_mask.allowed is None else attention_mask.allowed[:, :, first:],
                bias=None if attention_mask.bias is None else attention_mask.bias[:, :, first:],
            ),
            rotary={config: tables.columns(slice(first, None)) for config, tables in layout.rotary.items()},
        )

    def all_recalled(self, columns: Hidden, recalled: Recalled | None, rotary: RotaryConfig | None) -> Recalled:
        """What the write slots read in such a block: recalled tokens, read memory and text."""
        first, tables = self.text.stop, self.layout.tables(rotary)
        hidden, tables = columns[:, :first], None if tables is None else tables.columns(slice(first))
        if recalled is None:
            return Recalled(hidden=hidden, rotary=tables)
        if tables is not None and recalled.rotary is not None:
            tables = recalled.rotary.followed_by(tables)
        return Recalled(hidden=torch.cat((recalled.hidden, hidden), 1), rotary=tables)


class SegmentLayoutBuilder:
    """Makes the layout of each part of a call; parts of one shape share a layout where all rows agree."""

    def __init__(self, config: RecurrentMemoryConfig, rotary: Collection[RotaryConfig], dtype: torch.dtype) -> None:
        """Take what determines layouts.

        Args:
            config: Of the model.
            rotary: The rotations that the decoder's layers need.
            dtype: Of the model; rotary tables are float32 or wider.
        """
        self.config = config
        self.rotary = rotary
        self.dtype = torch.promote_types(dtype, torch.float32)
        self.read_slots = config.carried_tokens
        self.write_slots = 0 if config.bidirectional else config.num_memory_tokens
        self._even: dict[tuple[int, ...], SegmentLayout] = {}

    def build(self, part: SegmentPart, past: Past, *, keep: bool) -> SegmentLayout:
        """Place the columns of a part.

        Args:
            part: What is read.
            past: What else can be read.
            keep: Whether what attention caches is needed after this step.
        """
        if part.mask is not None:
            return self.make(part, past, keep)
        # Only the first part of a call goes on with a segment, so the shapes tell where a part starts.
        key = (part.tokens.shape[1], bool(part.begins), bool(part.ends), past.cached, past.recalled)
        if key not in self._even:
            self._even[key] = self.make(part, past, keep)
        return self._even[key]

    def make(self, part: SegmentPart, past: Past, keep: bool) -> SegmentLayout:
        """`build`, made anew."""
        reads = self.read_slots if part.begins is not False else 0
        writes = self.write_slots if part.ends is not False else 0
        batch, texts = part.tokens.shape
        positions = self._positions(part, reads, writes)
        mask = self._mask(part, reads, writes)
        return SegmentLayout(
            reads=reads,
            texts=texts,
            writes=writes,
            layout=BatchLayout(
                positions=positions,
                next_position=torch.zeros(batch, dtype=torch.long, device=positions.device),  # the model counts itself
                mask=mask,
                attention_mask=self._attention_mask(part, past, (reads, texts, writes), mask, keep),
                rotary=rotary_by_config(positions, self.rotary, self.dtype),
            ),
            recalled=rotary_by_config(self._recalled_positions(past, positions.device), self.rotary, self.dtype),
        )

    def _positions(self, part: SegmentPart, reads: int, writes: int) -> Positions:
        """Positions in the order read memory, recalled tokens, segment, write memory: all distances are true."""
        device = part.tokens.device
        text = part.places + (self.read_slots + self.config.xl_length)
        if not reads and not writes:
            return text
        real = part.tokens.shape[1] if part.mask is None else part.mask.sum(1, keepdim=True)
        after = self.read_slots + self.config.xl_length + part.start[:, None] + real
        rows = max(text.shape[0], after.shape[0])
        read = torch.arange(reads, device=device).expand(rows, reads)
        return torch.cat((read, text.expand(rows, -1), after + torch.arange(writes, device=device)), 1)

    def _recalled_positions(self, past: Past, device: torch.device) -> Int[Tensor, "1 recalled"]:
        """What is recalled stands right before the segment, in every row."""
        begin = self.read_slots + self.config.xl_length
        return torch.arange(begin - past.recalled, begin, device=device)[None]

    def _mask(self, part: SegmentPart, reads: int, writes: int) -> TokenFlags:
        """Which columns are real: rows that begin read memory, rows that end write it."""
        if part.mask is None:
            return None
        batch = part.mask.shape[0]
        reading = as_flags(part.begins, part.mask)
        if not self.config.read_first:
            reading = reading & ~as_flags(part.is_first, part.mask)
        writing = as_flags(part.ends, part.mask)
        columns = (reading[:, None].expand(batch, reads), part.mask, writing[:, None].expand(batch, writes))
        return torch.cat(columns, 1)

    def _attention_mask(
        self, part: SegmentPart, past: Past, sizes: tuple[int, int, int], mask: TokenFlags, keep: bool
    ) -> AttentionMask:
        before, columns = past.cached + past.recalled, sum(sizes)
        device = part.tokens.device
        groups = self._groups(sizes, device)
        if mask is None:
            if columns == 1 or (not before and groups is None):
                return AttentionMask()
            order = _order(groups, columns, device)
            later = torch.zeros(columns, columns, dtype=self.dtype, device=device).masked_fill(~order, -torch.inf)
            bias = torch.cat((later.new_zeros(columns, before), later), 1)
            return AttentionMask(bias=bias[None, None])
        present = torch.cat((*self._past_present(part, past, mask), mask), 1)
        earlier = torch.ones(columns, before, dtype=torch.bool, device=device)
        order = torch.cat((earlier, _order(groups, columns, device)), 1)
        allowed = present[:, None] & order & mask[..., None]
        if not keep:
            return AttentionMask(allowed=allowed[:, None])
        kept = present & ~as_flags(part.ends, mask)[:, None]
        return AttentionMask(allowed=allowed[:, None], visible=kept)

    def _past_present(
        self, part: SegmentPart, past: Past, mask: TokenMask
    ) -> tuple[Bool[Tensor, "batch cached"], Bool[Tensor, "batch recalled"]]:
        """Cached keys are there for rows that go on, recalled ones for rows that begin within a document."""
        batch = mask.shape[0]
        cached = as_flags(part.continues, mask)[:, None].expand(batch, past.cached)
        recalled = (as_flags(part.begins, mask) & ~as_flags(part.starts, mask))[:, None].expand(batch, past.recalled)
        if past.cached_real is not None:
            cached = cached & past.cached_real
        if past.recalled_real is not None:
            recalled = recalled & past.recalled_real
        return cached, recalled

    def _groups(self, sizes: tuple[int, int, int], device: torch.device) -> Int[Tensor, "columns"] | None:
        """The group of each column, which reads its own group and earlier ones; None is plain causal order."""
        reads, texts, writes = sizes
        together = not self.config.causal_memory and max(reads, writes) > 1
        if not together and not self.config.bidirectional:
            return None
        groups = torch.arange(sum(sizes), device=device)
        if self.config.bidirectional:
            return torch.zeros_like(groups)
        groups[:reads] = 0
        groups[reads + texts :] = reads + texts
        return groups


def as_flags(rows: Rows, like: Tensor) -> Bool[Tensor, "batch"]:
    """A claim about rows as a flag for each row of ``like``."""
    if isinstance(rows, bool):
        return torch.full((like.shape[0],), rows, device=like.device)
    return rows


def _order(groups: Tensor | None, columns: int, device: torch.device) -> Bool[Tensor, "columns columns"]:
    groups = torch.arange(columns, device=device) if groups is None else groups
    return groups[None] <= groups[:, None]
