"""Speed of reading and writing, and size of the state, against context length, for several models side by side."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from retentive.evaluation.mode import evaluating
from retentive.models.base import LanguageModel
from retentive.state import ModelState

CONTEXTS = (128, 512, 2048, 8192, 32768)
"""Context lengths that are measured where nothing else is asked for, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPoint:
    """One model at one context length.

    Attributes:
        model: Its name.
        context: Tokens that it had read before the decoding that was timed.
        state_bytes: Size of the state that it carried then, per row.
        decode_tokens_per_second: Tokens of one row, one at a time; median over turns.
        decode_slowest: Of the turns, in tokens per second.
        decode_fastest: Of the turns, in tokens per second.
        decode_turns: Turns that were timed.
        prefill_tokens_per_second: Tokens of one row, ``context`` of them in one call with the logits of the last;
            median over runs.
        prefill_runs: Runs that were timed.
    """

    model: str
    context: int
    state_bytes: int
    decode_tokens_per_second: float
    decode_slowest: float
    decode_fastest: float
    decode_turns: int
    prefill_tokens_per_second: float
    prefill_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A point that the budget had no room for: the seconds that it was expected to take, and those that were left."""

    model: str
    context: int
    expected_seconds: float
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedReport:
    """What `measure_speed` found.

    Attributes:
        points: In the order of contexts, then of models.
        left_out: What the budget had no room for.
        batch_size: Rows that were read side by side.
        tokens_per_turn: Tokens that a timed turn of decoding wrote in each row.
        device: Where the models were.
        threads: Threads of one operation on the CPU.
        seconds: The whole measurement took.
    """

    points: tuple[SpeedPoint, ...]
    left_out: tuple[LeftOut, ...]
    batch_size: int
    tokens_per_turn: int
    device: str
    threads: int
    seconds: float


def measure_speed(
    models: Mapping[str, LanguageModel],
    *,
    contexts: Sequence[int] = CONTEXTS,
    batch_size: int = 1,
    tokens_per_turn: int = 8,
    repetitions: int = 5,
    budget_seconds: float = 60.0,
    seed: int = 0,
    on_seconds: Callable[[int], object] = lambda _: None,
) -> SpeedReport:
    """Time prefill and decoding of random tokens at growing contexts, the models taking turns.

    A turn starts from the state of exactly ``context`` tokens; sampling is not part of it. Each model may use an equal
    share of the budget: repetitions of dear points are dropped first (never below one), then points that are expected
    not to fit, if costs go on growing as they did between the two contexts before (as the square after a single one).
    A model's first context is always measured.

    Args:
        models: Models by the names that the points will carry.
        contexts: Tokens read before decoding, growing.
        batch_size: Rows side by side; speeds are those of one row.
        tokens_per_turn: Tokens written in one timed turn.
        repetitions: Turns and prefills timed at each point, as far as the budget goes.
        budget_seconds: Of all models together; what was begun is finished, so the last point may run over.
        seed: Of the random tokens.
        on_seconds: Called with the whole seconds of the budget that passed since its last call.

    Raises:
        ValueError: If there is nothing to measure, or a number is out of range.
    """
    _check(
        models,
        contexts,
        budget_seconds,
        batch_size=batch_size,
        tokens_per_turn=tokens_per_turn,
        repetitions=repetitions,
    )
    begin = time.perf_counter()
    share = budget_seconds / len(models)
    runners = [_Runner(name, model, batch_size, tokens_per_turn, seed, share) for name, model in models.items()]
    points: list[SpeedPoint] = []
    left_out: list[LeftOut] = []
    told = 0
    for index, context in enumerate(contexts):
        entrants: list[_Runner] = []
        for runner in runners:
            missed = runner.cannot_afford(context)
            if missed is not None:
                left_out.append(missed)
                continue
            runner.start(context, allowance=runner.seconds_left / (len(contexts) - index))
            entrants.append(runner)
        for turn in range(repetitions):
            for runner in entrants:
                runner.take_turn(turn)
                passed = int(min(time.perf_counter() - begin, budget_seconds))
                on_seconds(passed - told)
                told = passed
        points.extend(runner.finish() for runner in entrants)
    return SpeedReport(
        points=tuple(points),
        left_out=tuple(left_out),
        batch_size=batch_size,
        tokens_per_turn=tokens_per_turn,
        device=", ".join(sorted({str(runner.device) for runner in runners})),
        threads=torch.get_num_threads(),
        seconds=time.perf_counter() - begin,
    )


def _check(models: Mapping[str, LanguageModel], contexts: Sequence[int], budget_seconds: float, **counts: int) -> None:
    if not models:
        raise ValueError("models must hold at least one model, but hold none.")
    growing = all(before < after for before, after in pairwise(contexts))
    if not contexts or contexts[0] < 1 or not growing:
        raise ValueError(
            f"contexts must be numbers of tokens from 1 up, each above the last, but are {list(contexts)}."
        )
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, but is {count}.")
    if not budget_seconds > 0:
        raise ValueError(f"budget_seconds must be above 0, but is {budget_seconds}.")


@dataclass(slots=True)
class _Runner:
    """One model's clock, share of the budget and measurements at the present context."""

    name: str
    model: LanguageModel
    batch_size: int
    tokens_per_turn: int
    seed: int
    seconds_left: float
    context: int = 0
    allowance: float = 0.0
    spent: float = 0.0
    tokens: Tensor | None = None
    state: ModelState | None = None
    prefills: list[float] = field(default_factory=list[float])
    decodes: list[float] = field(default_factory=list[float])
    costs: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def cannot_afford(self, context: int) -> LeftOut | None:
        """Why a context is left out, if one prefill and one turn are expected to take more than what is left."""
        if not self.costs:
            return None
        (known, cost), growth = self.costs[-1], 2.0
        if len(self.costs) > 1:
            before, cost_before = self.costs[-2]
            growth = min(2.0, max(1.0, math.log(cost / cost_before) / math.log(known / before)))
        expected = cost * (context / known) ** growth
        if expected <= self.seconds_left:
            return None
        left = max(0.0, self.seconds_left)
        return LeftOut(model=self.name, context=context, expected_seconds=expected, seconds_left=left)

    def start(self, context: int, *, allowance: float) -> None:
        """Go to another context; the first steps there are not timed, as they allocate."""
        self.context, self.allowance, self.spent, self.state = context, allowance, 0.0, None
        self.prefills, self.decodes = [], []
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.batch_size, context + self.tokens_per_turn)
        vocab_size = self.model.config.decoder.embedding.vocab_size
        self.tokens = torch.randint(0, vocab_size, shape, generator=generator).to(self.device)
        if not self.costs:
            self._time(self._prefill)
            self._time(self._decode)

    def take_turn(self, turn: int) -> None:
        """Time a prefill and a turn of decoding, or whichever of them the allowance still covers."""
        if turn == 0 or self.spent + self.prefills[-1] <= self.allowance:
            self.prefills.append(self._time(self._prefill))
        if turn == 0:
            self._time(self._decode)
        if turn == 0 or self.spent + self.decodes[-1] <= self.allowance:
            self.decodes.append(self._time(self._decode))

    def finish(self) -> SpeedPoint:
        """The measurements at this context, and what one of each cost."""
        self.costs.append((self.context, min(self.prefills) + min(self.decodes)))
        assert self.state is not None
        state_bytes = self.state.size_in_bytes // self.batch_size
        self.state = None
        return SpeedPoint(
            model=self.name,
            context=self.context,
            state_bytes=state_bytes,
            decode_tokens_per_second=self.tokens_per_turn / statistics.median(self.decodes),
            decode_slowest=self.tokens_per_turn / max(self.decodes),
            decode_fastest=self.tokens_per_turn / min(self.decodes),
            decode_turns=len(self.decodes),
            prefill_tokens_per_second=self.context / statistics.median(self.prefills),
            prefill_runs=len(self.prefills),
        )

    def _prefill(self) -> None:
        assert self.tokens is not None
        self.state = self.model(self.tokens[:, : self.context], logits_to_keep=1).state

    def _decode(self) -> None:
        assert self.tokens is not None
        state = self.state
        for column in range(self.context, self.context + self.tokens_per_turn):
            state = self.model(self.tokens[:, column : column + 1], state, logits_to_keep=1).state

    def _time(self, work: Callable[[], None]) -> float:
        with evaluating(self.model):
            _wait(self.device)
            begin = time.perf_counter()
            work()
            _wait(self.device)
            seconds = time.perf_counter() - begin
        self.spent += seconds
        self.seconds_left -= seconds
        return seconds


def _wait(device: torch.device) -> None:
    """Until all that was asked of a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
