"""One text that several processes read at the same time, a part each: where each part stands, and what they exchange.

A layer whose state joins over parts asks for the state before its own part and reads on from there, as it reads on from
an earlier call. What is exchanged does not grow with the text, where the state does not grow.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from retentive.ops.retention.contribution import Contribution
from retentive.shapes import RetentionMatrix, TokenFlags

Placed = tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]]
"""Positions of the first token of this process's part, and of the token after the whole text."""


@runtime_checkable
class Exchange(Protocol):
    """The processes that read one text, and how they tell one another what they have.

    Attributes:
        rank: Number of this process, which reads the part of this number; from 0.
        count: Number of processes.
    """

    rank: int
    count: int

    def share(self, numbers: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "parts *shape"]:
        """Return the tensor of every process, which all have one shape; nothing has a gradient."""
        ...

    def exchange(
        self, tensor: Shaped[Tensor, "*shape"], through: Shaped[Tensor, "*other"]
    ) -> tuple[Shaped[Tensor, "parts *shape"], Shaped[Tensor, "*other"]]:
        """Return the tensor of every process, and ``through`` as it is. Gradients go back to the processes.

        Args:
            tensor: Of one shape in all processes.
            through: What the loss depends on in every process, so that all of them come to the exchange of gradients.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TextParts:
    """The parts of the text of one call.

    Attributes:
        exchange: Who reads them.
        lengths: Columns of each part.
        have_gaps: Whether some part has padding or a document that begins in it.
        restarts: For each part, the rows in which a document begins.
    """

    exchange: Exchange
    lengths: tuple[int, ...]
    have_gaps: bool
    restarts: Bool[Tensor, "parts batch"]

    @property
    def rank(self) -> int:
        """Number of the part that this process reads."""
        return self.exchange.rank

    @property
    def count(self) -> int:
        """Number of parts."""
        return self.exchange.count

    def states_around(
        self, part: Contribution, before: RetentionMatrix | None, through: Tensor
    ) -> tuple[RetentionMatrix, RetentionMatrix, Tensor]:
        """Return the state before this process's part, that after the whole text, and ``through``; see `Exchange`.

        Args:
            part: How this process's part changes the state.
            before: The state before the whole text, the same in all processes; None is empty.
            through: See `Exchange`.
        """
        size = part.added.shape[2:]
        told = torch.cat((part.added.flatten(2), part.left.flatten(2)), 2)
        found, through = self.exchange.exchange(told, through)
        state = torch.zeros_like(part.added) if before is None else before.to(part.added.dtype)
        entering = state
        for number, numbers in enumerate(found):
            if number == self.rank:
                entering = state
            state = numbers[..., -1:, None] * state + numbers[..., :-1].unflatten(2, size)
        return entering, state, through


def meet(
    exchange: Exchange,
    own: Int[Tensor, "batch"],
    columns: int,
    position: Int[Tensor, "batch"] | None,
    mask: TokenFlags,
    starts: TokenFlags,
) -> tuple[TextParts, Placed]:
    """Tell the other processes about this one's part of a text, and learn where it stands.

    Args:
        exchange: Who reads the text.
        own: Tokens of each row in this part, of its last document alone.
        columns: Columns of this part.
        position: Tokens that each row has read before the text, the same in all processes.
        mask: The padding of this part.
        starts: Its document starts.

    Raises:
        ValueError: If the processes have different numbers of rows.
    """
    has_gaps = mask is not None or starts is not None
    told = exchange.share(torch.tensor([own.shape[0], columns, has_gaps], device=own.device)).tolist()
    rows = [found[0] for found in told]
    if len(set(rows)) > 1:
        raise ValueError(
            f"tokens must have as many rows in every process, as they read parts of the same texts, but have {rows}; "
            "cut texts by columns."
        )
    begun = torch.zeros_like(own) if starts is None else starts.any(1).to(own.dtype)
    counts, begins = exchange.share(torch.stack((own, begun))).unbind(1)
    following = torch.zeros_like(own) if position is None else position
    first = following
    for number in range(exchange.count):
        if number == exchange.rank:
            first = following
        following = torch.where(begins[number] > 0, counts[number], following + counts[number])
    parts = TextParts(
        exchange=exchange,
        lengths=tuple(found[1] for found in told),
        have_gaps=any(found[2] for found in told),
        restarts=begins > 0,
    )
    return parts, (first, following)
