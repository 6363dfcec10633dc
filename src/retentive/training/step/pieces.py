"""A text cut into pieces that follow one another, each a call that takes a state and returns the next."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_count
from retentive.data.batch import IGNORED
from retentive.shapes import TokenMask, Tokens
from retentive.state import RecurrentState
from retentive.training.objectives.next_token import NextToken
from retentive.training.objectives.protocol import Objective
from retentive.training.window import Window

NEXT_TOKEN = NextToken()

Loss = Float[Tensor, ""]


@runtime_checkable
class Piece(Protocol):
    """One piece of a text. Replay reads it twice, so it is the same call both times, autocast and masks included."""

    def __call__(self, state: RecurrentState | None, *, with_loss: bool) -> tuple[Loss | None, RecurrentState]:
        """Read the piece after ``state``: its share of the loss (None without ``with_loss``) and the next state."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """A window of text as a `Piece`.

    Attributes:
        model: Reads it; may be wrapped for several processes.
        window: What is read, and its labels.
        total_labels: Labels of the whole text (or step): the losses of all pieces add up to the mean over them.
        objective: What the loss is.
        context: Makes a context to read in, such as autocast.
    """

    model: nn.Module
    window: Window
    total_labels: int | Tensor
    objective: Objective = NEXT_TOKEN
    context: Callable[[], AbstractContextManager[object]] = nullcontext

    def __call__(self, state: RecurrentState | None, *, with_loss: bool) -> tuple[Loss | None, RecurrentState]:
        """Read the window after ``state``."""
        with self.context():
            if not with_loss:
                return None, self.objective.advance(self.model, self.window, state)
            total, count, following = self.objective(self.model, self.window, state)
        if isinstance(count, int) and count != self.window.num_labels:
            raise ValueError(
                f"an objective must count the labels that its prepare left in the window, {self.window.num_labels}, "
                f"but it counted {count}: what is not to be predicted gets the label {IGNORED} in prepare."
            )
        return total / self.total_labels, following


def cut_text(
    model: nn.Module,
    tokens: Tokens,
    labels: Tokens,
    *,
    length: int,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    total_labels: int | Tensor | None = None,
    objective: Objective = NEXT_TOKEN,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[TextPiece]:
    """Cut a batch of text into pieces of some columns each.

    Args:
        model: Reads them.
        tokens: The whole text.
        labels: The token that the model should predict at each position, -100 where there is none.
        length: Columns of a piece; for recurrent memory its ``segment_length``, so that a state is memory alone.
        mask: False at padding.
        starts: True at the first token of a document.
        total_labels: Labels of the step that this text is a part of; None counts those of the text.
        objective: What the loss is. One that chooses labels must have prepared ``tokens`` and ``labels`` before.
        context: Makes a context to read in, such as autocast.

    Raises:
        ValueError: If ``length`` is below 1.
    """
    check_count("length of a piece", length, unit="token")
    total = (labels != IGNORED).sum().clamp_min(1) if total_labels is None else total_labels

    def window(columns: slice) -> Window:
        wanted = labels[:, columns]
        return Window(
            tokens=tokens[:, columns],
            labels=wanted,
            starts=None if starts is None else starts[:, columns],
            num_labels=(wanted != IGNORED).sum(),
            mask=None if mask is None else mask[:, columns],
        )

    columns = (slice(begin, begin + length) for begin in range(0, tokens.shape[1], length))
    return [
        TextPiece(model=model, window=window(each), total_labels=total, objective=objective, context=context)
        for each in columns
    ]


def is_cut(number: int, truncate_after: int | None) -> bool:
    """Whether the gradient is cut before a piece."""
    return truncate_after is not None and number > 0 and number % truncate_after == 0


def check_pieces(pieces: Sequence[Piece], truncate_after: int | None) -> None:
    """Validate what is to be read.

    Raises:
        ValueError: If there is no piece, or ``truncate_after`` is below 1.
    """
    if not pieces:
        raise ValueError("pieces must hold at least one piece of text, but are empty.")
    if truncate_after is not None:
        check_count("truncate_after", truncate_after, unit="piece", otherwise="None")
