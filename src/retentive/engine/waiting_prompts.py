"""Prompts that are read in pieces, so that rows which are being continued never wait longer than one piece."""

from collections import deque
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from retentive.engine.protocol import RowLimits, RowPrompt, Sampler
from retentive.state import ModelState


@dataclass(slots=True)
class PromptProgress:
    """How far the prompt of a row is read.

    Attributes:
        prompt: As it was admitted.
        state: After ``read`` tokens.
        read: Tokens that were read.
    """

    prompt: RowPrompt
    state: ModelState | None
    read: int

    @property
    def left(self) -> int:
        """Tokens that were not read."""
        return self.prompt.tokens.shape[0] - self.read

    def piece(self, most: int) -> Int[Tensor, "1 piece"]:
        """The next tokens, at most so many and at most to the next mark."""
        ends = (self.read + most, *(mark for mark in self.prompt.marks if mark > self.read))
        return self.prompt.tokens[None, self.read : min(ends)]

    def advance(self, count: int, state: ModelState) -> None:
        """Note that so many tokens more were read."""
        self.read, self.state = self.read + count, state
        if self.read in self.prompt.marks and self.prompt.on_mark is not None:
            self.prompt.on_mark(self.read, state)


@dataclass(slots=True)
class WaitingPrompt:
    """A row whose prompt has not been read to its end.

    Attributes:
        slot: Of the row.
        progress: Of its prompt.
        sampler: Will choose the row's tokens.
        limits: When the row will end.
    """

    slot: int
    progress: PromptProgress
    sampler: Sampler
    limits: RowLimits


class WaitingPrompts:
    """A queue that gives each prompt a piece in turn: a short prompt does not wait for the end of a long one."""

    def __init__(self, tokens_per_step: int) -> None:
        """Begin without prompts.

        Args:
            tokens_per_step: Tokens of all pieces of one step, at most.
        """
        self._most = tokens_per_step
        self._queue: deque[WaitingPrompt] = deque()

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self._queue)

    @property
    def slots(self) -> tuple[int, ...]:
        """Their slots, the next one first."""
        return tuple(waiting.slot for waiting in self._queue)

    def add(self, waiting: WaitingPrompt) -> None:
        """Put a prompt at the end."""
        self._queue.append(waiting)

    def remove(self, slot: int) -> None:
        """Let one go."""
        self._queue = deque(waiting for waiting in self._queue if waiting.slot != slot)

    def next_pieces(self) -> list[tuple[WaitingPrompt, Int[Tensor, "1 piece"]]]:
        """What to read in this step: a piece of each prompt, from the next one on, while there is room."""
        room, pieces = self._most, list[tuple[WaitingPrompt, Tensor]]()
        for waiting in self._queue:
            if room == 0:
                break
            piece = waiting.progress.piece(room)
            room -= piece.shape[1]
            pieces.append((waiting, piece))
        return pieces

    def turn(self, count: int) -> list[WaitingPrompt]:
        """After a step that read a piece of the first ``count``: let those that are read go, and return them."""
        turned = [self._queue.popleft() for _ in range(count)]
        self._queue.extend(waiting for waiting in turned if waiting.progress.left)
        return [waiting for waiting in turned if not waiting.progress.left]
