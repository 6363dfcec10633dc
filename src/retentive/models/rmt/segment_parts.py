"""A call cut into parts of segments: a part has, of every row, tokens of one segment."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from retentive.layers.batch_layout import make_layout
from retentive.models.calls import check_values_are_known
from retentive.shapes import Positions, TokenFlags, TokenMask, Tokens

Rows = bool | Bool[Tensor, "batch"]
"""A claim about rows: True of all, False of none, or a flag for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPart:
    """The tokens that one step reads: of every row, a segment or a part of one.

    Attributes:
        tokens: Token ids; the part of a row stands at the begin.
        start: Place in its segment of a row's first token.
        mask: Which tokens belong to the part; None where all do.
        begins: Rows whose segment begins with the part.
        ends: Rows whose segment ends with it.
        starts: Rows in which a document starts with it.
        is_first: Rows whose segment is the first of its document.
        continues: Rows that go on with the unfinished segment of an earlier call, or have nothing to read at all.
    """

    tokens: Int[Tensor, "batch width"]
    start: Int[Tensor, "#batch"]
    mask: Bool[Tensor, "batch width"] | None = None
    begins: Rows
    ends: Rows
    starts: Rows
    is_first: Rows
    continues: Rows

    @property
    def places(self) -> Positions:
        """Place of each token in its segment."""
        return self.start[:, None] + torch.arange(self.tokens.shape[1], device=self.tokens.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a call is read.

    Attributes:
        parts: In order. Rows that need fewer begin later, so that the last part is the last of every row.
        columns: Where each token of the call stands in the parts side by side; None where they are the call itself.
        position: Tokens of its document that each row has read after the call.
        unfinished: Tokens of the longest unfinished segment after the call.
    """

    parts: tuple[SegmentPart, ...]
    columns: Int[Tensor, "batch time"] | None
    position: Int[Tensor, "batch"]
    unfinished: int


def choose(rows: Rows, then: Tensor, otherwise: Tensor) -> Tensor:
    """``then`` in some rows, ``otherwise`` in the others."""
    if isinstance(rows, bool):
        return then if rows else otherwise
    return torch.where(rows.view(-1, *(1,) * (then.dim() - 1)), then, otherwise)


def to_the_end(real: TokenMask, values: Tensor, dim: int) -> tuple[Tensor, TokenMask]:
    """Move the real columns of ``values`` to the end, in order; returns them and which columns are real then."""
    order = real.to(torch.uint8).argsort(dim=1, stable=True)
    shape = [1] * values.dim()
    shape[0], shape[dim] = order.shape
    index = order.view(shape).expand_as(values)
    return values.gather(dim, index), real.gather(1, order)


def even_plan(tokens: Tokens, position: Int[Tensor, "batch"], place: int, segment_length: int) -> Plan:
    """Cut a call whose rows all stand at the same place of a segment; looks at shapes alone.

    Args:
        tokens: Of the call.
        position: Tokens of its document that each row has read.
        place: How many of them belong to an unfinished segment.
        segment_length: Tokens of a segment.
    """
    time = tokens.shape[1]
    parts: list[SegmentPart] = []
    for begin, end in _bounds(place, time, segment_length):
        first = (begin + place) % segment_length
        is_begin, is_end = _decided(first == 0), _decided(first + end - begin == segment_length)
        parts.append(
            SegmentPart(
                tokens=tokens[:, begin:end],
                start=torch.full((1,), first, dtype=torch.long, device=tokens.device),
                begins=is_begin,
                ends=is_end,
                starts=False,
                is_first=False,
                continues=not is_begin,
            )
        )
    unfinished = (place + time) % segment_length
    return Plan(parts=tuple(parts), columns=None, position=position + time, unfinished=unfinished)


def _decided(claim: bool) -> bool:
    """Return a claim about sizes as True or False: in compiled code it may be a symbol, which ``is`` neither."""
    return True if claim else False  # noqa: SIM210 - bool(claim) would stay a symbol


def _bounds(place: int, time: int, segment_length: int) -> Iterator[tuple[int, int]]:
    begin = 0
    while begin < time:
        end = min(time, begin + segment_length - (begin + place) % segment_length)
        yield begin, end
        begin = end


def ragged_plan(
    tokens: Tokens,
    position: Int[Tensor, "batch"],
    segment_length: int,
    mask: TokenFlags,
    starts: TokenFlags,
) -> Plan:
    """Cut a call with padding, documents, or rows at different places: each row is cut at its own borders.

    The number of parts depends on values, so a GPU is waited for twice per call.

    Args:
        tokens: Of the call.
        position: Tokens of its document that each row has read.
        segment_length: Tokens of a segment.
        mask: False at padding.
        starts: True at the first token of a document.
    """
    check_values_are_known("rmt", mask=mask, starts=starts, state=position)
    batch, time = tokens.shape
    # Not like the tokens: within vmap those stand for many, and where a text is cut does not.
    real = torch.ones(batch, time, dtype=torch.bool, device=tokens.device) if mask is None else mask
    starting = torch.zeros_like(real) if starts is None else starts & real
    layout = make_layout(position, batch, time, mask=real, starts=starting, device=tokens.device)
    begins = real & (layout.positions % segment_length == 0)
    number = begins.cumsum(1)
    goes_on = (number.where(real, 1) == 0).any(1) | ~real.any(1)
    count = torch.where(real.any(1), number[:, -1] + goes_on, 0)
    place = position % segment_length
    steps, unfinished = torch.stack((count.amax(), (layout.next_position % segment_length).amax())).tolist()
    steps = max(steps, 1)
    step = number - 1 + (steps - count + goes_on)[:, None]
    # A row's first part goes on at the place of the unfinished segment, the others begin at 0.
    offset = place[:, None] * (goes_on[:, None] & (number == 0))
    slot = layout.positions % segment_length - offset
    grid = _grid(real, step * segment_length + slot, steps, segment_length)
    widths = (grid >= 0).any(0).sum(-1).clamp_min(1)
    parts = _ragged_parts(
        _Cut(
            tokens=tokens,
            grid=grid,
            begins=begins,
            starting=starting,
            first=layout.positions == 0,
            continues=goes_on[:, None]
            & (torch.arange(steps, device=tokens.device) == (steps - count).clamp_max(steps - 1)[:, None]),
            place=place,
            widths=widths,
        )
    )
    columns = ((widths.cumsum(0) - widths)[step.clamp(0, steps - 1)] + slot).where(real, 0)
    return Plan(parts=parts, columns=columns, position=layout.next_position, unfinished=unfinished)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """Where each row is cut: columns of the call in their steps, and claims about columns, steps or rows."""

    tokens: Tokens
    grid: Int[Tensor, "batch steps segment"]
    begins: TokenMask
    starting: TokenMask
    first: TokenMask
    continues: Bool[Tensor, "batch steps"]
    place: Int[Tensor, "batch"]
    widths: Int[Tensor, "steps"]


def _grid(
    real: TokenMask, cell: Int[Tensor, "batch time"], steps: int, segment_length: int
) -> Int[Tensor, "batch steps segment"]:
    """Which column of the call stands in each cell of each step; -1 where none does."""
    batch, time = real.shape
    cells = steps * segment_length
    grid = torch.full((batch, cells + 1), -1, device=real.device)
    columns = torch.arange(time, device=real.device).expand(batch, time)
    return grid.scatter(1, cell.where(real, cells), columns)[:, :cells].view(batch, steps, segment_length)


def _ragged_parts(cut: _Cut) -> tuple[SegmentPart, ...]:
    occupied = cut.grid >= 0
    head, some = cut.grid[:, :, 0].clamp_min(0), occupied[:, :, 0]
    begins, starts, first = (claim.gather(1, head) & some for claim in (cut.begins, cut.starting, cut.first))
    reached = occupied.sum(-1) + cut.place[:, None] * cut.continues
    ends = some & (reached == cut.grid.shape[2])
    claims = (begins, ends, starts, begins & first, cut.continues)
    table = torch.stack((cut.widths, *(claim.any(0) for claim in claims)), 1).tolist()
    parts: list[SegmentPart] = []
    for index, (width, *present) in enumerate(table):
        columns = cut.grid[:, index, :width]
        rows = [claim[:, index] if there else False for claim, there in zip(claims, present, strict=True)]
        parts.append(
            SegmentPart(
                tokens=cut.tokens.gather(1, columns.clamp_min(0)),
                start=cut.place * cut.continues[:, index],
                mask=columns >= 0,
                begins=rows[0],
                ends=rows[1],
                starts=rows[2],
                is_first=rows[3],
                continues=rows[4],
            )
        )
    return tuple(parts)
