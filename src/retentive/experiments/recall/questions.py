"""Does a model still know, after a million bytes, a fact that it read once? Trials with known answers, and controls.

A text is filler with one fact in it and a question at its end, in the bytes of `retentive.data.tasks.recurrent_tasks`.
One row is read piece by piece with the state carried along. The last segment holds the question and never the fact, so
only the state can answer it; the controls replace the state there.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from retentive.config_types import check_count
from retentive.data.tasks.recurrent_tasks import FACT_LENGTH, QUESTION, VALUES, Filler, fact_bytes, filler_bytes
from retentive.engine.threads import one_thread
from retentive.evaluation.measures.mode import evaluating
from retentive.models.protocol import LanguageModel
from retentive.shapes import Tokens
from retentive.state import ModelState, map_tensors

DEPTHS = (0.0, 0.25, 0.5, 0.75)
"""Where facts stand: the share of the text, up to its last segment, that comes before."""

MEMORY, ZEROED, SHUFFLED = "memory", "memory zeroed", "memory of another text"
"""What the last segment is read after: the state as it is, with zeros for its numbers, or that of the next trial."""

_PIECE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One text: filler, a fact and a question.

    Attributes:
        seed: Seeds the filler and the exact positions, together with ``number``.
        number: Number of the trial.
        length: Bytes, whole segments.
        segment_length: Bytes of a segment.
        depth: Where the fact stands, as in `DEPTHS`.
        value: The fact, as an index into `VALUES`.
        filler: What stands around it.
    """

    seed: int
    number: int
    length: int
    segment_length: int
    depth: float
    value: int
    filler: Filler = field(default=filler_bytes, repr=False)

    def pieces(self) -> Iterator[Int64[np.ndarray, "1 time"]]:
        """All but the last segment, some whole segments at a time, so that no text is ever in memory as a whole."""
        random = self._random("filler")
        before = self.length - self.segment_length
        step = max(1, _PIECE // self.segment_length) * self.segment_length
        place = self._fact_place()
        for begin in range(0, before, step):
            piece = self.filler((1, min(step, before - begin)), random)
            inside = place - begin
            if 0 <= inside < piece.shape[1]:
                piece[0, inside : inside + FACT_LENGTH] = fact_bytes(self.value)
            yield piece

    def last_segment(self) -> Int64[np.ndarray, "1 time"]:
        """The segment that ends with the question."""
        segment = self.filler((1, self.segment_length), self._random("question"))
        segment[0, -1] = QUESTION
        return segment

    def _fact_place(self) -> int:
        """A random position of the fact inside the segment that the depth names."""
        segments = self.length // self.segment_length - 1
        segment = min(int(self.depth * segments), segments - 1)
        room = self.segment_length - FACT_LENGTH + 1
        return segment * self.segment_length + int(self._random("place").integers(room))

    def _random(self, use: str) -> np.random.Generator:
        uses = ("filler", "question", "place")
        return np.random.default_rng((self.seed, self.length, self.number, uses.index(use)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a model answered at one length.

    Attributes:
        length: Bytes of each text.
        depths: Of each trial's fact.
        values: Of each trial's fact.
        answers: By what the last segment was read after: the answer to each trial, a number of a value, or -1 for
            any other byte.
        seconds: Duration of all trials.
        resident_bytes: The most memory of the process that was resident while texts were read; None where the system
            does not tell, or where nothing was read.
    """

    length: int
    depths: tuple[float, ...]
    values: tuple[int, ...]
    answers: dict[str, tuple[int, ...]]
    seconds: float
    resident_bytes: int | None

    def hits(self, after: str, depth: float | None = None) -> tuple[int, int]:
        """Right answers and trials, of all depths or of one."""
        chosen = [number for number, found in enumerate(self.depths) if depth is None or found == depth]
        return sum(self.answers[after][number] == self.values[number] for number in chosen), len(chosen)


def make_trials(
    count: int, *, length: int, segment_length: int, seed: int, filler: Filler = filler_bytes
) -> list[Trial]:
    """Trials with every depth and every value equally often, as far as they divide, in an order drawn at random.

    64 trials, or a multiple, have every value at every depth. Fewer have values drawn at random among all, each at most
    once more than any other.

    Raises:
        ValueError: If there are no trials, or a text is not of two or more whole segments.
    """
    check_count("trials", count)
    check_count("segment_length", segment_length)
    check_count("lengths", length)
    if length % segment_length or length < 2 * segment_length:
        raise ValueError(
            f"lengths must be two or more whole segments of {segment_length} bytes, but one is {length}; the last "
            "segment asks and holds no fact."
        )
    random = np.random.default_rng((seed, length))
    order, values, depths = random.permutation(count), random.permutation(len(VALUES)), random.permutation(len(DEPTHS))
    return [
        Trial(
            seed=seed,
            number=number,
            length=length,
            segment_length=segment_length,
            # With each round of all values, every value stands at the next depth.
            depth=DEPTHS[int(depths[(place + place // len(VALUES)) % len(DEPTHS)])],
            value=int(values[place % len(VALUES)]),
            filler=filler,
        )
        for number, place in enumerate(order)
    ]


def ask(
    model: LanguageModel,
    trials: Sequence[Trial],
    *,
    carries_state: bool = True,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> Answers:
    """Read every trial's text, one row at a time on one thread, and ask.

    Args:
        model: Of any family whose state is carried; read in eval mode.
        trials: All of one length.
        carries_state: False for a model that remembers nothing beyond a segment: it reads the last segment alone, and
            there is nothing for controls to replace.
        on_bytes: Called with the number of bytes that were read since its last call.
    """
    begin, resident = time.perf_counter(), _Resident()
    with evaluating(model), one_thread(wanted=True):
        states: list[ModelState | None] = []
        for trial in trials:
            states.append(_read(model, trial, resident, on_bytes) if carries_state else None)
            on_bytes(trial.segment_length if carries_state else trial.length)
        answers: dict[str, tuple[int, ...]] = {}
        for after, chosen in _controls(states).items():
            answers[after] = tuple(_answer(model, trial, state) for trial, state in zip(trials, chosen, strict=True))
    return Answers(
        length=trials[0].length,
        depths=tuple(trial.depth for trial in trials),
        values=tuple(trial.value for trial in trials),
        answers=answers,
        seconds=time.perf_counter() - begin,
        resident_bytes=resident.most,
    )


def _controls(states: Sequence[ModelState | None]) -> dict[str, Sequence[ModelState | None]]:
    found: dict[str, Sequence[ModelState | None]] = {MEMORY: states}
    whole = [state for state in states if state is not None]
    if whole:
        found[ZEROED] = [zeros_of(state) for state in whole]
        found[SHUFFLED] = [*whole[1:], *whole[:1]]
    return found


def zeros_of(state: ModelState) -> ModelState:
    """A state with zeros for its numbers, and its counts as they are."""
    return map_tensors(state, _zeros)


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor) if tensor.is_floating_point() else tensor


def _read(model: LanguageModel, trial: Trial, resident: "_Resident", on_bytes: Callable[[int], object]) -> ModelState:
    state: ModelState | None = None
    for piece in trial.pieces():
        state = model(_tokens(piece), state, logits_to_keep=0).state
        resident.look()
        on_bytes(piece.shape[1])
    assert state is not None
    return state


def _answer(model: LanguageModel, trial: Trial, state: ModelState | None) -> int:
    logits = model(_tokens(trial.last_segment()), state, logits_to_keep=1).logits
    assert logits is not None
    return VALUES.find(bytes([int(logits[0, -1].argmax())]))


def _tokens(piece: Int64[np.ndarray, "1 time"]) -> Tokens:
    return torch.from_numpy(piece)


class _Resident:
    """The most memory of this process that was resident at any look."""

    def __init__(self) -> None:
        self._status = Path("/proc/self/statm")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE") if self._status.exists() else 0
        self.most: int | None = None

    def look(self) -> None:
        """Note how much is resident now."""
        if self._page_bytes:
            now = int(self._status.read_text().split()[1]) * self._page_bytes
            self.most = max(now, self.most or 0)
