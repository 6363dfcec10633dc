"""Speed of reading and writing, and size of the state, against context length, for several models side by side."""

import math
import random
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from retentive.config_types import check_count
from retentive.evaluation.measures.mode import evaluating
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState

CONTEXTS = (128, 512, 2048, 8192, 32768)
"""Context lengths that are measured where nothing else is asked for, in tokens."""


_NEARLY_LINEAR = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPoint:
    """One model at one context length.

    Attributes:
        model: Its name.
        context: Tokens that it had read before the timed decoding.
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
    """A point that did not fit into the budget: the seconds that it was expected to take, and those that were left."""

    model: str
    context: int
    expected_seconds: float
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedReport:
    """What `measure_speed` found.

    Attributes:
        points: In the order of contexts, then of models.
        left_out: Points that did not fit into the budget.
        batch_size: Rows that were read side by side.
        tokens_per_turn: Tokens that a timed turn of decoding wrote in each row.
        device: Device of the models.
        threads: Threads of one operation on the CPU.
        seconds: Duration of the whole measurement.
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
    """Time prefill and decoding of random tokens at growing contexts.

    First every context is read once, then all contexts of all models take turns in an order drawn anew each time, so
    that a noisy machine is fair to them. A turn of decoding starts from the state of exactly ``context`` tokens;
    sampling is not part of it. All states are in memory together.

    Each model may use an equal share of the budget. Contexts that are expected not to fit are left out: costs are taken
    to grow with the context where they did so between the two contexts before, and as its square elsewhere. Then
    repetitions are left out, of prefill before those of decoding. A model's first context is always measured.

    Args:
        models: Models by the names that the points will carry.
        contexts: Tokens read before decoding, growing.
        batch_size: Rows side by side; speeds are those of one row.
        tokens_per_turn: Tokens written in one timed turn.
        repetitions: Turns and prefills timed at each point, as far as the budget goes.
        budget_seconds: Of all models together; what was begun is finished, so it may be overrun a little.
        seed: Of the random tokens and the order.
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
    clock = _Clock(budget_seconds, on_seconds)
    share = budget_seconds / len(models)
    runners = [_Runner(name, model, batch_size, tokens_per_turn, seed, share) for name, model in models.items()]
    left_out = _read_contexts(runners, contexts, clock)
    _take_turns(runners, repetitions, seed, clock)
    points = [runner.result(context) for context in contexts for runner in runners if context in runner.points]
    return SpeedReport(
        points=tuple(points),
        left_out=tuple(left_out),
        batch_size=batch_size,
        tokens_per_turn=tokens_per_turn,
        device=", ".join(sorted({str(runner.device) for runner in runners})),
        threads=torch.get_num_threads(),
        seconds=clock.seconds,
    )


def _read_contexts(runners: "Sequence[_Runner]", contexts: Sequence[int], clock: "_Clock") -> list[LeftOut]:
    """Let every model read every context that fits into its budget; return those that do not."""
    left_out: list[LeftOut] = []
    for context in contexts:
        for runner in runners:
            missed = runner.read(context)
            left_out += [] if missed is None else [missed]
            clock.tell()
    return left_out


def _take_turns(runners: "Sequence[_Runner]", repetitions: int, seed: int, clock: "_Clock") -> None:
    """Time decoding, then prefill, of all models at all contexts, in an order drawn anew for each repetition."""
    order = [(runner, point) for runner in runners for point in runner.points.values()]
    shuffle = random.Random(seed).shuffle
    for work in (_Runner.time_decoding, _Runner.time_prefill):
        for _ in range(repetitions):
            shuffle(order)  # so that no measurement always follows the same one
            for runner, point in order:
                work(runner, point)
                clock.tell()


def _check(models: Mapping[str, LanguageModel], contexts: Sequence[int], budget_seconds: float, **counts: int) -> None:
    if not models:
        raise ValueError("models must hold at least one model, but hold none.")
    growing = all(before < after for before, after in pairwise(contexts))
    if not contexts or contexts[0] < 1 or not growing:
        raise ValueError(
            f"contexts must be numbers of tokens from 1 up, each above the last, but are {list(contexts)}."
        )
    for name, count in counts.items():
        check_count(name, count)
    if not budget_seconds > 0:
        raise ValueError(f"budget_seconds must be above 0, but is {budget_seconds}.")


class _Clock:
    """Tells the caller how much of the budget has passed."""

    def __init__(self, budget_seconds: float, on_seconds: Callable[[int], object]) -> None:
        self._begin, self._told = time.perf_counter(), 0
        self._budget_seconds, self._on_seconds = budget_seconds, on_seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def tell(self) -> None:
        passed = int(min(self.seconds, self._budget_seconds))
        self._on_seconds(passed - self._told)
        self._told = passed


@dataclass(slots=True)
class _Point:
    """One model at one context: its state there, and the seconds of prefills and of decoding turns."""

    context: int
    tokens: Tensor
    state: ModelState
    prefills: list[float]
    decodes: list[float] = field(default_factory=list[float])
    warm_up: float = 0.0

    @property
    def cost(self) -> float:
        """A prefill, the turn that warms up and one that is timed."""
        return min(self.prefills) + 2 * self.warm_up


@dataclass(slots=True)
class _Runner:
    """One model, its share of the budget, and what was measured of it."""

    name: str
    model: LanguageModel
    batch_size: int
    tokens_per_turn: int
    seed: int
    seconds_left: float
    points: dict[int, _Point] = field(default_factory=dict[int, _Point])

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def read(self, context: int) -> LeftOut | None:
        """Read a context and warm up there, or note that it does not fit into the budget."""
        missed = self._cannot_afford(context)
        if missed is not None:
            return missed
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.batch_size, context + self.tokens_per_turn)
        vocab_size = self.model.vocab_size
        tokens = torch.randint(0, vocab_size, shape, generator=generator).to(self.device)
        if not self.points:
            self._prefill(tokens, context)
        seconds, state = self._prefill(tokens, context)
        point = _Point(context, tokens, state, [seconds])
        point.warm_up = self._decode(point)
        self.points[context] = point
        return None

    def time_decoding(self, point: _Point) -> None:
        """Time one turn, if it is the first or fits into the budget."""
        if not point.decodes or point.decodes[-1] <= self.seconds_left:
            point.decodes.append(self._decode(point))

    def time_prefill(self, point: _Point) -> None:
        """Time one more prefill, at most one for each decoding turn, if it fits into the budget."""
        if len(point.prefills) < len(point.decodes) and point.prefills[-1] <= self.seconds_left:
            point.prefills.append(self._prefill(point.tokens, point.context)[0])

    def result(self, context: int) -> SpeedPoint:
        """The measurements at one context."""
        point = self.points[context]
        return SpeedPoint(
            model=self.name,
            context=context,
            state_bytes=point.state.size_in_bytes // self.batch_size,
            decode_tokens_per_second=self.tokens_per_turn / statistics.median(point.decodes),
            decode_slowest=self.tokens_per_turn / max(point.decodes),
            decode_fastest=self.tokens_per_turn / min(point.decodes),
            decode_turns=len(point.decodes),
            prefill_tokens_per_second=context / statistics.median(point.prefills),
            prefill_runs=len(point.prefills),
        )

    def _cannot_afford(self, context: int) -> LeftOut | None:
        known = list(self.points.values())
        if not known:
            return None
        last, growth = known[-1], 2.0
        if len(known) > 1:
            before = known[-2]
            measured = math.log(last.cost / before.cost) / math.log(last.context / before.context)
            # A cost that grows faster than the context is attention's, which ends as the square of the context.
            growth = 2.0 if measured > _NEARLY_LINEAR else max(1.0, measured)
        expected = last.cost * (context / last.context) ** growth
        if expected <= self.seconds_left:
            return None
        left = max(0.0, self.seconds_left)
        return LeftOut(model=self.name, context=context, expected_seconds=expected, seconds_left=left)

    def _prefill(self, tokens: Tensor, context: int) -> tuple[float, ModelState]:
        with self._timed() as seconds:
            state = self.model(tokens[:, :context], logits_to_keep=1).state
        return seconds[0], state

    def _decode(self, point: _Point) -> float:
        state = point.state
        with self._timed() as seconds:
            for column in range(point.context, point.context + self.tokens_per_turn):
                state = self.model(point.tokens[:, column : column + 1], state, logits_to_keep=1).state
        return seconds[0]

    @contextmanager
    def _timed(self) -> Generator[list[float]]:
        """Time the block: append its seconds to the list and take them from the budget."""
        seconds: list[float] = []
        with evaluating(self.model):
            _wait(self.device)
            begin = time.perf_counter()
            yield seconds
            _wait(self.device)
            seconds.append(time.perf_counter() - begin)
        self.seconds_left -= seconds[0]


def _wait(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
