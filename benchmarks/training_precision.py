"""Training steps and prompts in float32 and bfloat16: ``python -m benchmarks.training_precision``.

`retentive train` computes products in bfloat16 where the CPU multiplies it faster; the other packages compute in the
dtype of their weights, float32, unless their user asks for autocast. So each work is raced in both precisions on
both sides (bfloat16 by autocast), and the targets are for each as it comes. Writes
``runs/bench/training_precision.json`` and a picture; the machine should have nothing else to do, for ten minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks import retro, rmt
from benchmarks.compiled_training import as_llama
from benchmarks.racing import machine
from benchmarks.racing.command import run_benchmark
from benchmarks.racing.interleave import Contestant, Race, Task, ratio_of_rounds
from benchmarks.racing.measuring import Measuring
from benchmarks.racing.pictures import draw_targets, finish
from benchmarks.racing.plan import ModelPlan, ours, theirs
from benchmarks.racing.results import Results
from benchmarks.retnet import as_theirs
from retentive.ops.precision import cpu_multiplies_bfloat16

FLOAT32, BFLOAT16 = "float32", "bfloat16"
RETNET, TRANSFORMER, MEMORY, RECALLING, RETRO = "retnet", "transformer", "rmt", "rmt with recall", "retro"
YET_ANOTHER, LLAMA, PYTORCH_RMT, PYTORCH_RETRO = (
    *("yet-another-retnet", "transformers' Llama", "recurrent-memory-transformer-pytorch", "retro-pytorch"),
)
WORK = "training_step"
SHARE_AT_2048 = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A work, who does it, and how many times as fast ours is to be.

    Attributes:
        ours: Our contestant.
        theirs: The other package's.
        time: Tokens of a step.
        target: Of ours as it comes over theirs as it comes.
        work: Its name among our works.
        their_work: The same among those of the other package, where it is another.
        arguments: Of that work, beside ``time`` and ``precision``.
        way: What is said of that work, where the package has several.
    """

    ours: str
    theirs: str
    time: int
    target: float
    work: str = WORK
    their_work: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    way: str = ""

    @property
    def name(self) -> str:
        """The work, as results call it."""
        return f"{self.ours}, {self.work.replace('_', ' ')}, {self.time} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The contests, the shapes of their models, and how often each is run."""

    contests: tuple[Contest, ...]
    shape: ModelPlan
    intermediate_size: int
    memory: rmt.Plan
    retro: retro.Plan
    rounds: int = 9
    judged: bool = True


def contests(
    lengths: Mapping[int, float], chunk: int, prompt: int, memory: int, retro_time: int
) -> tuple[Contest, ...]:
    """All contests; ``lengths`` are those of RetNet and Transformer, with RetNet's targets."""
    found: list[Contest] = []
    for time, target in lengths.items():
        found.append(Contest(ours=RETNET, theirs=YET_ANOTHER, time=time, target=target))
        found.append(
            replace(
                found[-1], target=1.5, their_work=f"{WORK}_by_chunks", arguments={"chunk_size": chunk}, way=" by chunks"
            )
        )
        found.append(Contest(ours=TRANSFORMER, theirs=LLAMA, time=time, target=1.2))
    read = Contest(ours=RETNET, theirs=YET_ANOTHER, time=prompt, target=3.0, work="prefill")
    found += [replace(read, arguments={"chunk_size": size}, way=f", chunks of {size}") for size in (chunk, 2 * chunk)]
    recalled = f"{PYTORCH_RMT} with recall"
    found.append(Contest(ours=MEMORY, theirs=PYTORCH_RMT, time=memory, target=1.8))
    found.append(Contest(ours=RECALLING, theirs=recalled, time=memory, target=1.6))
    found.append(
        Contest(
            ours=RECALLING, theirs=recalled, time=memory, target=1.6, their_work="recalling_step", way=", passed on"
        )
    )
    found.append(Contest(ours=RETRO, theirs=PYTORCH_RETRO, time=retro_time, target=2.0))
    return tuple(found)


FULL = Plan(
    contests=contests({512: 1.5, 2048: 3.5, 4096: 7.0}, 512, 16_384, 2048, 1024),
    shape=ModelPlan(),
    intermediate_size=512,
    memory=rmt.FULL,
    retro=retro.FULL,
)
QUICK = Plan(
    contests=contests({32: 1.0}, 32, 128, rmt.QUICK.time, retro.QUICK.time),
    shape=ModelPlan(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, matrix_size=64, copy_mebibytes=1),
    intermediate_size=48,
    memory=rmt.QUICK,
    retro=retro.QUICK,
    rounds=2,
    judged=False,
)


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """Every model in a process of its own, with the shapes of the benchmarks of its family."""
    shape: dict[str, Any] = {**plan.shape.sizes(), "intermediate_size": plan.intermediate_size}
    found = [
        machine.contestant(threads=threads),
        ours(RETNET, "retentive_model", config=as_theirs(shape), threads=threads),
        ours(TRANSFORMER, "retentive_model", config=as_llama(shape), threads=threads),
        ours(LLAMA, "transformers_llama", **shape, threads=threads),
    ]
    if with_yardstick:
        found.append(theirs(YET_ANOTHER, "yet_another_retnet", "yet_another_retnet", **shape, threads=threads))
    taken = {MEMORY, RECALLING, PYTORCH_RMT, f"{PYTORCH_RMT} with recall"}
    family = rmt.contestants(plan.memory, threads=threads, with_yardstick=with_yardstick)
    found += [contestant for contestant in family if contestant.name in taken]
    family = retro.contestants(plan.retro, threads=threads, with_yardstick=with_yardstick)
    return found + [contestant for contestant in family if contestant.name in {RETRO, PYTORCH_RETRO}]


class Benchmark(Measuring[Plan]):
    """Races the contests, those of one model and length together."""

    def run(self) -> None:
        """Measure everything."""
        for name in dict.fromkeys(contest.name for contest in self.plan.contests):
            same = [contest for contest in self.plan.contests if contest.name == name]
            competing = [one for one in same if self.with_yardstick or one.theirs == LLAMA]
            tasks = self._tasks(same[0], competing)
            race = self.race(name, {**tasks, **self.plan.shape.machine_tasks()}, self.plan.rounds)
            for contest in competing:
                self._judge(race, contest)
            self._judge_alone(race, same[0])

    def _tasks(self, first: Contest, competing: list[Contest]) -> dict[str, Task]:
        tasks: dict[str, Task] = {}
        for precision in (FLOAT32, BFLOAT16):
            arguments = {"time": first.time, "precision": precision}
            label = f"{first.ours} {precision}"
            tasks[label] = Task(contestant=first.ours, work=first.work, arguments=arguments)
            for one in competing:
                label = f"{one.theirs}{one.way} {precision}"
                asked = {**arguments, **one.arguments}
                tasks[label] = Task(contestant=one.theirs, work=one.their_work or one.work, arguments=asked)
        return tasks

    def _judge(self, race: Race, contest: Contest) -> None:
        """Rows of one contest. Prompts are read in the dtype of the weights, on both sides: they come in float32."""
        own = BFLOAT16 if contest.work == WORK and cpu_multiplies_bfloat16() else FLOAT32
        opponent = contest.theirs + contest.way
        for mine, other in ((FLOAT32, FLOAT32), (BFLOAT16, BFLOAT16), (BFLOAT16, FLOAT32)):
            ratio = race.times_as_fast(f"{contest.ours} {mine}", f"{opponent} {other}")
            comes = mine == own and other == FLOAT32
            ways = f"both in {mine}" if mine == other else f"{mine} over {other}"
            what = f"{contest.name}, {ways}{', as they come here' if comes else ''}"
            self.row(what, opponent, ratio, contest.target if comes else None, "least")

    def _judge_alone(self, race: Race, contest: Contest) -> None:
        half, single = f"{contest.ours} {BFLOAT16}", f"{contest.ours} {FLOAT32}"
        self.row(f"{contest.name}, {BFLOAT16}", FLOAT32, race.times_as_fast(half, single), None, "least")
        for label in (half, single):
            if "matrix_flop" in race.facts[label]:
                speed = [race.facts[label]["matrix_flop"] / seconds for seconds in race.seconds[label]]
                best = [race.units["matrix_product"] / seconds for seconds in race.seconds["matrix_product"]]
                target = SHARE_AT_2048 if contest.time == 2048 else None
                what = f"share of the machine's float32 matrix speed, {contest.time} tokens, {label}"
                self.row(what, "the machine", ratio_of_rounds(speed, best), target, "least")

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        return self.collected(description, self.plan.contests[0].name)


def draw(results: Results, path: Path) -> None:
    """Draw each contest's ratios: both in float32, both in bfloat16, and as they come."""
    rows = [row for row in results.rows if row.target is not None]
    figure, axes = pyplot.subplots(figsize=(12, 13), layout="constrained")
    draw_targets(axes, rows)
    about = results.machine
    finish(figure, path, f"Training steps, {about['threads']} threads of {about['cpu']}, torch {about['torch']}")


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark(
        "training_precision", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw
    )


if __name__ == "__main__":
    main()
