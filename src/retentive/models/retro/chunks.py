"""The places of a call's tokens in their chunks, the chunks that end in it, and their tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from retentive.layers.batch_layout import make_layout
from retentive.layers.chunked_cross_attention import RaggedReads, Reads
from retentive.models.calls import check_values_are_known
from retentive.shapes import TokenFlags


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the chunks of a call go on from.

    Attributes:
        places: Place in its chunk of each row's next token; negative before the first chunk.
        recent: Tokens before the call that are remembered.
        real: Which of them are there; None where all are.
    """

    places: Int[Tensor, "batch"]
    recent: int = 0
    real: Bool[Tensor, "batch recent"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Runs of tokens, as columns of what is remembered and the call side by side.

    Attributes:
        begin: Column of the first one, where rows agree; negative where it lacks some tokens at its begin.
        count: How many there are.
        width: Tokens of each.
        index: Column of each token, where rows differ; None where they agree.
        real: Which tokens are there; None where all are.
    """

    begin: int
    count: int
    width: int
    index: Int[Tensor, "batch count width"] | None = None
    real: Bool[Tensor, "batch count width"] | None = None

    def cut(self, values: Tensor) -> Tensor:
        """The runs of ``(batch, columns, ...)`` as ``(batch, count, width, ...)``; zeros or others where none is."""
        if self.index is not None:
            flat = self.index.flatten(1)
            flat = flat.view(*flat.shape, *(1,) * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
            return values.gather(1, flat).unflatten(1, (self.count, self.width))
        lacking = max(0, -self.begin)
        if lacking:
            shape = (values.shape[0], lacking, *values.shape[2:])
            values = torch.cat((values.new_zeros(shape), values), 1)
        first = self.begin + lacking
        return values[:, first : first + self.count * self.width].unflatten(1, (self.count, self.width))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlan:
    """How the chunks of a call lie.

    Attributes:
        reads: Which token reads which neighbours.
        ended: The chunks that end in the call: the last ``chunk_size`` tokens of their document. Rows with fewer of
            them have empty ones at the end.
        recent: What the next call needs to remember: one run of at most ``chunk_size - 1`` tokens.
        next_places: Place in its chunk of each row's next token.
    """

    reads: Reads
    ended: Windows
    recent: Windows
    next_places: Int[Tensor, "batch"]


def place_in_chunk(count: Tensor, chunk_size: int) -> Tensor:
    """Place of a token that ``count`` tokens of chunks stand before; negative counts are before the first chunk."""
    return torch.where(count < 0, count, count % chunk_size)


def even_plan(place: int, before: Before, time: int, chunk_size: int) -> ChunkPlan:
    """The plan where all rows stand at one place and nothing is padded; looks at shapes alone.

    Args:
        place: Of the first token.
        before: What the call goes on from.
        time: Tokens of the call.
        chunk_size: Tokens of a chunk.
    """
    device = before.places.device
    batch = before.places.shape[0]
    num_ended = max(0, place + time) // chunk_size
    head = chunk_size - 1 - place
    counts = torch.arange(place, place + time + 1, device=device)
    places = place_in_chunk(counts, chunk_size)
    begin = before.recent - place
    real = None
    if begin < 0 and num_ended:
        real = torch.ones(batch, num_ended, chunk_size, dtype=torch.bool, device=device)
        real[:, 0, :-begin] = False
    kept = min(before.recent + time, chunk_size - 1)
    return ChunkPlan(
        reads=Reads(chunk_size=chunk_size, num_ended=num_ended, places=places[None, :-1], head=head),
        ended=Windows(begin=begin, count=num_ended, width=chunk_size, real=real),
        recent=Windows(begin=before.recent + time - kept, count=1, width=kept),
        next_places=places[-1].repeat(batch),
    )


def ragged_plan(
    before: Before, time: int, chunk_size: int, offset: int, mask: TokenFlags, starts: TokenFlags
) -> ChunkPlan:
    """The plan with padding, documents, or rows at different places.

    The number of chunks that end depends on values, so a GPU is waited for.

    Args:
        before: What the call goes on from.
        time: Columns of the call.
        chunk_size: Tokens of a chunk.
        offset: Tokens of a document before its first chunk.
        mask: False at padding.
        starts: True at the first token of a document.
    """
    check_values_are_known("retro", mask=mask, starts=starts)
    batch = before.places.shape[0]
    device = before.places.device
    real = torch.ones(batch, time, dtype=torch.bool, device=device) if mask is None else mask
    starts = None if starts is None else starts & real
    # Counted from the begin of the document, or from anywhere that is as far from the end of a chunk.
    layout = make_layout(before.places + offset, batch, time, mask=real, starts=starts, device=device)
    places = place_in_chunk(layout.positions - offset, chunk_size)
    ends = real & (places == chunk_size - 1)
    num_ended = int(ends.sum(1).amax())
    documents = torch.zeros_like(places) if starts is None else starts.cumsum(1)
    order = _Order(before, real, documents)
    end = _columns_where(ends, num_ended)
    ended_windows = order.windows(end, chunk_size)
    recent = order.windows(None, chunk_size - 1)
    assert recent.real is not None
    assert recent.index is not None
    kept = int(recent.real.sum(2).amax()) if chunk_size > 1 else 0
    remembered = recent.real[:, :, chunk_size - 1 - kept :]
    return ChunkPlan(
        reads=Reads(
            chunk_size=chunk_size,
            num_ended=num_ended,
            places=places,
            head=time,
            ragged=_reads(places, ends, real, documents, num_ended, chunk_size),
        ),
        ended=ended_windows,
        recent=Windows(
            begin=0,
            count=1,
            width=kept,
            index=recent.index[:, :, chunk_size - 1 - kept :],
            real=None if bool(remembered.all()) else remembered,
        ),
        next_places=place_in_chunk(layout.next_position - offset, chunk_size),
    )


def _reads(
    places: Tensor, ends: Tensor, real: Tensor, documents: Tensor, num_ended: int, chunk_size: int
) -> RaggedReads:
    """Which token reads which neighbours: those of the last chunk that ended in its document, its own included."""
    batch, time = places.shape
    number = ends.cumsum(1)  # chunks that have ended, this token's included
    begun = documents > 0
    starting = torch.diff(documents, dim=1, prepend=torch.zeros_like(documents[:, :1])) > 0
    # Chunks that had ended when the document started; the count only grows, so the latest is the largest.
    earlier = ((number - ends.long()).where(starting, 0)).cummax(1).values
    reads_ended = real & (number > earlier)
    reads_carried = real & (number == 0) & ~begun
    cells = num_ended * chunk_size
    column = ((number - 1) * chunk_size + (places + 1) % chunk_size).where(reads_ended, cells)
    token = torch.zeros(batch, cells + 1, dtype=torch.long, device=places.device)
    token = token.scatter(1, column, torch.arange(time, device=places.device).expand(batch, time))
    last = (number[:, -1] > earlier[:, -1]).long() * number[:, -1] - 1
    return RaggedReads(
        token=token[:, :cells],
        column=column.where(reads_ended, 0),
        reads_ended=reads_ended,
        reads_carried=reads_carried,
        last=last,
        keeps_carried=(number[:, -1] == 0) & ~begun[:, -1],
    )


def _columns_where(claim: Tensor, count: int) -> Int[Tensor, "batch count"]:
    """The columns of each row where a claim holds, in order; -1 where there are no more."""
    batch, time = claim.shape
    found = torch.full((batch, count + 1), -1, dtype=torch.long, device=claim.device)
    slot = (claim.cumsum(1) - 1).where(claim, count)
    return found.scatter(1, slot, torch.arange(time, device=claim.device).expand(batch, time))[:, :count]


class _Order:
    """The real tokens of each row in order, remembered ones first, and the document of each."""

    def __init__(self, before: Before, real: Tensor, documents: Tensor) -> None:
        batch = real.shape[0]
        remembered = real.new_ones(batch, before.recent) if before.real is None else before.real
        both = torch.cat((remembered, real), 1)
        self.recent = before.recent
        self.rank = both.cumsum(1) - 1
        self.column = (~both).to(torch.uint8).argsort(dim=1, stable=True)
        self.documents = torch.cat((documents.new_zeros(batch, before.recent), documents), 1)

    def windows(self, end: Tensor | None, width: int) -> Windows:
        """The last ``width`` tokens of the same document up to columns ``end`` of the call, or up to its end."""
        if end is None:
            last = self.rank[:, -1:]
            document = self.documents[:, -1:]
            there = torch.ones_like(last, dtype=torch.bool)
        else:
            there = end >= 0
            at = (end + self.recent).clamp_min(0)
            last, document = self.rank.gather(1, at), self.documents.gather(1, at)
        rank = last[..., None] - torch.arange(width - 1, -1, -1, device=last.device)
        column = self.column.gather(1, rank.clamp_min(0).flatten(1)).view_as(rank)
        owner = self.documents.gather(1, column.flatten(1)).view_as(rank)
        real = (rank >= 0) & there[..., None] & (owner == document[..., None])
        return Windows(begin=0, count=rank.shape[1], width=width, index=column, real=real)
