"""A recurrent memory around SmolLM2-135M, natively and by the wrapper: ``python -m benchmarks.memory_around``.

The native one is `retentive.models.rmt.with_memory` over the converted decoder, the other
`retentive.huggingface.HuggingFaceRecurrentMemory` around transformers' model of the same file. Needs ``make smollm2``.
Writes ``runs/bench/memory_around.json`` and ``memory_around.png`` and prints a table; it takes about five minutes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.racing import machine
from benchmarks.racing.command import run_benchmark
from benchmarks.racing.interleave import Contestant, Race, Ratio, Task, ratio_of_rounds
from benchmarks.racing.measuring import Measuring
from benchmarks.racing.pictures import draw_targets, finish
from benchmarks.racing.plan import ModelPlan, ours
from benchmarks.racing.results import Results
from benchmarks.smollm2 import FILE, check_weights

NATIVE, WRAPPER = "native", "wrapper"
TARGET = 0.8
"""Of the wrapper's time, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelPlan):
    """What is measured, and how often.

    Attributes:
        segment_length: Tokens of a segment.
        num_memory_tokens: Memory tokens.
        training: Tokens of a training step.
        read: Tokens of a text that is read.
        rank: Of LoRA.
    """

    segment_length: int = 128
    num_memory_tokens: int = 8
    training: int = 512
    read: int = 1024
    rank: int = 8
    rounds: int = 9


FULL = Plan()
QUICK = Plan(
    **{"segment_length": 8, "num_memory_tokens": 2, "training": 16, "read": 16, "rank": 2},
    **{"rounds": 1, "judged": False, "matrix_size": 64, "copy_mebibytes": 1},
)


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """Both ways, and the machine."""
    sizes = {"segment_length": plan.segment_length, "num_memory_tokens": plan.num_memory_tokens, "threads": threads}
    found = [machine.contestant(threads=threads)]
    for kind, source in ((NATIVE, check_weights()), (WRAPPER, FILE)):
        found.append(ours(kind, "memory_around", kind=kind, source=str(source), **sizes))
    return found


class Benchmark(Measuring[Plan]):
    """Races the two at each work."""

    def run(self) -> None:
        """Measure everything."""
        plan = self.plan
        self._race("training step, memory alone", "training_step", {"time": plan.training, "rank": 0}, "loss")
        self._race(
            f"training step, LoRA of rank {plan.rank}",
            "training_step",
            {"time": plan.training, "rank": plan.rank},
            "loss",
        )
        self._race("reading a long text", "read", {"time": plan.read}, "largest")
        self.race("machine", plan.machine_tasks(), plan.rounds)

    def _race(self, title: str, work: str, arguments: dict[str, Any], fact: str) -> None:
        tasks = {kind: Task(contestant=kind, work=work, arguments=arguments) for kind in (NATIVE, WRAPPER)}
        race = self.race(title, tasks, self.plan.rounds)
        check_same(race, fact)
        self.row(f"time of a {title}" if work != "read" else f"time of {title}", WRAPPER, _time(race), TARGET, "most")

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        return self.collected(description, "machine")


def check_same(race: Race, fact: str) -> None:
    """Refuse a race of two that do not compute the same.

    Raises:
        ValueError: If they do not.
    """
    one, other = (race.facts[kind][fact] for kind in (NATIVE, WRAPPER))
    if abs(one - other) > 1e-3 * abs(other):
        raise ValueError(f"both must compute the same {fact}, but compute {one} and {other}.")


def _time(race: Race) -> Ratio:
    return ratio_of_rounds(race.seconds[NATIVE], race.seconds[WRAPPER])


def draw(results: Results, path: Path) -> None:
    """Draw tokens a second of both, and the targets."""
    figure, (speeds, targets) = pyplot.subplots(1, 2, figsize=(13, 4), layout="constrained")
    races = {title: race for title, race in results.races.items() if NATIVE in race.seconds}
    for number, (kind, colour) in enumerate(((NATIVE, "#0b6e4f"), (WRAPPER, "#888888"))):
        places = [place + 0.4 * number for place in range(len(races))]
        values = [1 / race.seconds_per_unit(kind) for race in races.values()]
        bars = speeds.bar(places, values, width=0.38, color=colour, label=kind)
        speeds.bar_label(bars, [f"{value:,.0f}" for value in values], fontsize=8)
    speeds.set_xticks([place + 0.2 for place in range(len(races))], list(races), fontsize=8)
    speeds.set_ylabel("tokens a second")
    speeds.legend()
    draw_targets(targets, results.rows)
    plan, about = results.plan, results.machine
    words = f"SmolLM2-135M, segments of {plan['segment_length']}, {plan['num_memory_tokens']} memory tokens"
    finish(figure, path, f"{words}, {about['threads']} threads of {about['cpu']}, torch {about['torch']}")


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark(
        "memory_around", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw
    )


if __name__ == "__main__":
    main()
