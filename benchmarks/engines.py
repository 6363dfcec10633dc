"""Engines against `eager`, against yet-another-retnet and against the memory: ``python -m benchmarks.engines``.

One-token steps of a RetNet, narrow and wide, one row and several. Every engine runs the same model; yet-another-retnet
is of the same shape, and takes part with its own threads and set to one thread by hand, of which the better counts.
Writes ``runs/bench/engines.json`` and ``engines.png`` and prints a table; it takes about five minutes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.racing import machine
from benchmarks.racing.command import run_benchmark
from benchmarks.racing.interleave import Contestant, Race, Task, ratio_of_rounds
from benchmarks.racing.measuring import Measuring
from benchmarks.racing.pictures import draw_targets, finish
from benchmarks.racing.plan import TINY, ModelPlan, ours, theirs
from benchmarks.racing.results import Results
from benchmarks.retnet import as_theirs

EAGER, YARDSTICK, ONE_THREAD = "eager", "yet-another-retnet", "yet-another-retnet on one thread"
FLOAT32, INT8 = ("compile", "onnx"), "onnx-int8"

# What is to be reached, by the best engine in float32, and in 8 bits.
OVER_EAGER, OVER_YARDSTICK, INT8_OVER_EAGER, SHARE_OF_MEMORY = 1.4, 2.0, 3.0, 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelPlan):
    """Sizes, and how often each is done.

    Attributes:
        widths: Channels of the models; the feed-forward has twice as many.
        batches: Rows.
        engines: Beside `eager`.
        steps: Tokens of one repetition.
        rounds: Repetitions.
    """

    widths: tuple[int, ...] = (256, 1024)
    batches: tuple[int, ...] = (1, 8)
    engines: tuple[str, ...] = (*FLOAT32, INT8, "onnx-int4")
    steps: int = 32
    rounds: int = 11


FULL = Plan()
QUICK = Plan(**TINY, widths=(32,), batches=(1, 2), engines=(), steps=3)


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """A process for each width of each package."""
    found = [machine.contestant(threads=threads)]
    for width in plan.widths:
        shape = {**plan.sizes(), "hidden_size": width, "intermediate_size": 2 * width}
        found.append(ours(f"ours {width}", "retentive_model", config=as_theirs(shape), threads=threads))
        if with_yardstick:
            name = f"{YARDSTICK} {width}"
            found.append(theirs(name, "yet_another_retnet", "yet_another_retnet", **shape, threads=threads))
    return found


class Benchmark(Measuring[Plan]):
    """Races the engines, width by width and batch by batch."""

    def run(self) -> None:
        """Measure everything."""
        for width in self.plan.widths:
            for batch in self.plan.batches:
                self._decode(width, batch)

    def _decode(self, width: int, batch: int) -> None:
        arguments = {"batch": batch, "context": 128, "steps": self.plan.steps}
        tasks = {
            engine: Task(contestant=f"ours {width}", work="decode", arguments={**arguments, "engine": engine})
            for engine in (EAGER, *self.plan.engines)
        }
        if self.with_yardstick:
            name = f"{YARDSTICK} {width}"
            tasks[YARDSTICK] = Task(contestant=name, work="decode", arguments=arguments)
            tasks[ONE_THREAD] = Task(contestant=name, work="decode_on_one_thread", arguments=arguments)
        race = self.race(race_name(width, batch), {**tasks, **self.plan.machine_tasks()}, self.plan.rounds)
        self._judge(race, f"{width} channels, batch {batch}", at_limit=batch == 1 and width == max(self.plan.widths))

    def _judge(self, race: Race, where: str, *, at_limit: bool) -> None:
        best = race.fastest([EAGER, *(engine for engine in self.plan.engines if engine in FLOAT32)])
        for engine in self.plan.engines:
            target = INT8_OVER_EAGER if engine == INT8 else None
            self.row(f"{engine}, {where}", EAGER, race.times_as_fast(engine, EAGER), target, "least")
        what = f"the best in float32 ({best}), {where}"
        self.row(what, EAGER, race.times_as_fast(best, EAGER), OVER_EAGER, "least")
        if self.with_yardstick:
            theirs = race.fastest([YARDSTICK, ONE_THREAD])
            ratio = race.times_as_fast(best, theirs)
            self.row(what, f"{YARDSTICK} at its best threads", ratio, OVER_YARDSTICK, "least")
        ours = [race.facts[best]["step_bytes"] * race.units[best] / seconds for seconds in race.seconds[best]]
        copied = [race.units["memory_copy"] / seconds for seconds in race.seconds["memory_copy"]]
        target = SHARE_OF_MEMORY if at_limit else None
        what = f"share of the memory's speed, {best}, {where}"
        self.row(what, "bytes that a step must read", ratio_of_rounds(ours, copied), target, "least")

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        return self.collected(description, race_name(self.plan.widths[0], self.plan.batches[0]))


def race_name(width: int, batch: int) -> str:
    """The name of a race in the results."""
    return f"decode {width} batch {batch}"


def draw(results: Results, path: Path) -> None:
    """Draw speeds over `eager`, and the targets."""
    figure, (bars, targets) = pyplot.subplots(1, 2, figsize=(15, 6), layout="constrained")
    names = [name for name in next(iter(results.races.values())).seconds if name not in machine.tasks()]
    for place, race in enumerate(results.races.values()):
        for number, name in enumerate(names):
            speed = race.times_as_fast(name, EAGER).median
            at = place + 0.8 * (number - (len(names) - 1) / 2) / len(names)
            bars.bar(at, speed, width=0.8 / len(names), color=f"C{number}", label=None if place else name)
            bars.text(at, speed, f"{speed:.2f}", ha="center", va="bottom", fontsize=7)
        bars.set_xticks(range(len(results.races)), [title.removeprefix("decode ") for title in results.races])
    bars.axhline(1, color="#888888", linestyle="--", linewidth=1)
    bars.set_xlabel("channels and rows")
    bars.set_ylabel("tokens a second over eager's")
    bars.legend(fontsize=8)
    draw_targets(targets, results.rows)
    about = results.machine
    words = f"RetNet, {results.plan['num_layers']} layers, vocabulary {results.plan['vocab_size']}"
    finish(figure, path, f"{words}, {about['threads']} threads of {about['cpu']}, torch {about['torch']}")


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark("engines", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw)


if __name__ == "__main__":
    main()
