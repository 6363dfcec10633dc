"""The coordinator's side of an interleaved measurement: contestants work in turn, and ratios are taken round by round.

A shared machine is never quiet, so times of two programs that ran one after the other cannot be compared. Here each
contestant lives in a process and virtual environment of its own, has loaded and warmed up everything, and waits. In
every round each does one repetition (A B A B ...), alone. Noise that lasts longer than a round slows both, and the
median over rounds of the ratios drops what hit only one.
"""

import itertools
import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]


class WorkerError(Exception):
    """A worker could not do what it was asked; the message holds its traceback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """Who competes.

    Attributes:
        name: How results call it.
        python: The interpreter of its virtual environment.
        module: The worker module that it runs (see `benchmarks.racing.worker`).
        options: Keyword arguments of the module's ``works``.
        environment: Variables of its process, beside those that all have.
    """

    name: str
    python: Path
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One work of one contestant, with the arguments it is prepared with."""

    contestant: str
    work: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The median over rounds of a ratio, and the quartiles around it."""

    median: float
    lower_quartile: float
    upper_quartile: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What a race measured, each by the label of its task.

    Attributes:
        seconds: Time of one repetition, round by round.
        units: What one repetition does, in tokens, steps or operations.
        facts: What the work knew without a clock.
    """

    seconds: dict[str, list[float]]
    units: dict[str, float]
    facts: dict[str, dict[str, float]]

    def seconds_per_unit(self, label: str) -> float:
        """The median time of one token, step or operation."""
        return statistics.median(self.seconds[label]) / self.units[label]

    def times_as_fast(self, label: str, opponent: str) -> Ratio:
        """How many units ``label`` does while ``opponent`` does one: above 1 where it is faster."""
        return ratio_of_rounds(self._per_unit(opponent), self._per_unit(label))

    def fastest(self, labels: Sequence[str]) -> str:
        """The label with the least median time per unit: the way that a contestant is best at."""
        return min(labels, key=self.seconds_per_unit)

    def _per_unit(self, label: str) -> list[float]:
        return [seconds / self.units[label] for seconds in self.seconds[label]]


def ratio_of_rounds(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Median and quartiles of the ratios of values that were measured in the same round.

    Raises:
        ValueError: If there are no rounds, or the two do not have equally many.
    """
    if not numerators or len(numerators) != len(denominators):
        raise ValueError(
            f"Both sides must have run the same rounds, at least 1, but ran {len(numerators)} and {len(denominators)}."
        )
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(median=median, lower_quartile=lower, upper_quartile=upper, rounds=len(ratios))


class WorkerProcess:
    """One contestant's process."""

    def __init__(self, contestant: Contestant, threads: int) -> None:
        self.name = contestant.name
        # passive: a worker that waits for its turn must not spin on the cores of the one that works.
        quiet = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [str(contestant.python), "-c", "from benchmarks.racing.worker import main; main()"],
            cwd=ROOT,
            env={**os.environ, **quiet, "PYTHONPATH": str(ROOT), **contestant.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.ask(do="load", module=contestant.module, options=dict(contestant.options))
        except BaseException:
            self.close()
            raise

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send one message and wait for its answer.

        Raises:
            WorkerError: If the worker answers with an error, or is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"The worker of {self.name} ended with code {self._process.wait()} when asked {message}.")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"The worker of {self.name} failed when asked {message}:\n{answer['error']}")
        return answer

    def close(self) -> None:
        """Close the pipe, which ends the worker, and wait for it."""
        self._process.communicate()


class Arena:
    """All contestants' processes, of which only one works at a time. Use it in a ``with`` statement."""

    def __init__(self, contestants: Sequence[Contestant], *, threads: int = 2) -> None:
        """Start a worker for each contestant and wait until all are loaded.

        Args:
            contestants: Who competes; names differ.
            threads: OpenMP threads of each worker.
        """
        names = [contestant.name for contestant in contestants]
        if len(set(names)) != len(names):
            raise ValueError(f"Names of contestants must differ, but are {names}.")
        self._contestants = {contestant.name: contestant for contestant in contestants}
        self._threads = threads
        self._workers: dict[str, WorkerProcess] = {}
        try:
            for contestant in contestants:
                self._workers[contestant.name] = WorkerProcess(contestant, threads)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Arena":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every worker."""
        for worker in self._workers.values():
            worker.close()
        self._workers = {}

    def race(self, title: str, tasks: Mapping[str, Task], *, rounds: int, warm_ups: int = 1) -> Race:
        """Prepare every task, warm up, then let each do one repetition per round, in the order of ``tasks``.

        Args:
            title: What the progress bar says.
            tasks: By label; two tasks may belong to one contestant.
            rounds: Repetitions of each task that count.
            warm_ups: Repetitions of each task before those.
        """
        workers = {label: self._workers[task.contestant] for label, task in tasks.items()}
        seconds: dict[str, list[float]] = {label: [] for label in tasks}
        answers: dict[str, dict[str, Any]] = {}
        try:
            for label, task in tasks.items():
                answers[label] = workers[label].ask(
                    do="prepare", label=label, work=task.work, arguments=dict(task.arguments)
                )
            turns = itertools.product(range(-warm_ups, rounds), tasks)
            for turn, label in tqdm(list(turns), desc=title, unit="turn"):
                taken = workers[label].ask(do="repeat", label=label)["seconds"]
                if turn >= 0:
                    seconds[label].append(taken)
        finally:
            for label in answers:
                workers[label].ask(do="release", label=label)
        return Race(
            seconds=seconds,
            units={label: answer["units"] for label, answer in answers.items()},
            facts={label: answer["facts"] for label, answer in answers.items()},
        )

    def facts(self, task: Task) -> dict[str, float]:
        """What a task knows without a clock: it is prepared and not run."""
        worker = self._workers[task.contestant]
        answer = worker.ask(do="prepare", label="facts", work=task.work, arguments=dict(task.arguments))
        worker.ask(do="release", label="facts")
        return answer["facts"]

    def peak_memory(self, task: Task) -> int:
        """Bytes of resident memory that the first repetition of a task needs above what was resident before it.

        It runs in a fresh process of the contestant, after the work is prepared (for a training step: libraries
        imported, model, optimizer and batch made, no gradient and no moment yet). What the libraries set up on first
        use is counted.
        """
        worker = WorkerProcess(self._contestants[task.contestant], self._threads)
        try:
            worker.ask(do="prepare", label="peak", work=task.work, arguments=dict(task.arguments))
            return worker.ask(do="peak", label="peak")["bytes"]
        finally:
            worker.close()
