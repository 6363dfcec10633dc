"""Training steps, eager and compiled, against other packages: ``python -m benchmarks.compiled_training``.

RetNet is the very model of yet-another-retnet, and the Transformer is of the shape of transformers' Llama: gated
feed-forward, RMS norm, rotated queries and keys, a head of its own. What is compiled runs through ``torch.compile`` as
``train --hardware.compile true`` has it. Writes ``runs/bench/compiled_training.json`` and a picture; about ten minutes.
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

COMPILED = " compiled"
RETNET, TRANSFORMER, LLAMA, YARDSTICK = "retnet", "transformer", "transformers' Llama", "yet-another-retnet"
BY_CHUNKS = f"{YARDSTICK} by chunks"

# What is to be reached, by the faster of our two ways.
OVER_YARDSTICK = {512: 1.5, 2048: 3.5, 4096: 7.0}
OVER_CHUNKS, OVER_LLAMA, SHARE_AT_2048 = 1.5, 1.2, 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelPlan):
    """Sizes, and how often each is done.

    Attributes:
        intermediate_size: Channels inside the feed-forward.
        training: Tokens of a training step -> rounds.
        written_chunk: Size of the yardstick's hand-written chunks.
        ways: Ends of the contestants' names: eager steps have none.
    """

    intermediate_size: int = 512
    training: tuple[tuple[int, int], ...] = ((512, 15), (2048, 9), (4096, 5))
    written_chunk: int = 512
    ways: tuple[str, ...] = ("", COMPILED)


FULL = Plan()
QUICK = Plan(**TINY, intermediate_size=48, training=((32, 2), (96, 2)), written_chunk=32, ways=("",))


def as_llama(shape: dict[str, Any]) -> dict[str, Any]:
    """The config of our Transformer of the shape of a Llama."""
    rotary = {"positions": "rotary", "rotary_frequencies": "standard", "rotary_pairs": "half"}
    return {"family": "transformer", **shape, **rotary, "activation": "swish", "gated": True, "norm": "rms_norm"}


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """Every way of every model in a process of its own: what is compiled stays so."""
    shape = plan.sizes("intermediate_size")
    found = [machine.contestant(threads=threads)]
    for end in plan.ways:
        found.append(ours(RETNET + end, "retentive_model", config=as_theirs(shape), threads=threads))
        found.append(ours(TRANSFORMER + end, "retentive_model", config=as_llama(shape), threads=threads))
        found.append(ours(LLAMA + end, "transformers_llama", **shape, threads=threads))
    if with_yardstick:
        found.append(theirs(YARDSTICK, "yet_another_retnet", "yet_another_retnet", **shape, threads=threads))
    return found


class Benchmark(Measuring[Plan]):
    """Races the training steps, length by length."""

    def run(self) -> None:
        """Measure everything."""
        for time, rounds in self.plan.training:
            self._train(time, rounds)

    def _train(self, time: int, rounds: int) -> None:
        arguments = {"time": time}
        tasks: dict[str, Task] = {}
        for end in self.plan.ways:
            chosen = {**arguments, "compiled": end == COMPILED}
            for name in (RETNET, TRANSFORMER, LLAMA):
                tasks[name + end] = Task(contestant=name + end, work="training_step", arguments=chosen)
        if self.with_yardstick:
            tasks[YARDSTICK] = Task(contestant=YARDSTICK, work="training_step", arguments=arguments)
            by_chunks = {**arguments, "chunk_size": self.plan.written_chunk}
            tasks[BY_CHUNKS] = Task(contestant=YARDSTICK, work="training_step_by_chunks", arguments=by_chunks)
        self._judge(self.race(f"training {time}", {**tasks, **self.plan.machine_tasks()}, rounds), time)

    def _judge(self, race: Race, time: int) -> None:
        retnet = race.fastest([name for name in (RETNET, RETNET + COMPILED) if name in race.seconds])
        for opponent, target in ((YARDSTICK, OVER_YARDSTICK.get(time)), (BY_CHUNKS, OVER_CHUNKS)):
            if opponent in race.seconds:
                what = f"training step, {time} tokens, {retnet}"
                self.row(what, opponent, race.times_as_fast(retnet, opponent), target, "least")
        for end in self.plan.ways:
            ratio = race.times_as_fast(TRANSFORMER + end, LLAMA + end)
            self.row(f"training step, {time} tokens, {TRANSFORMER}{end}", LLAMA + end, ratio, OVER_LLAMA, "least")
            speed = [race.facts[RETNET]["matrix_flop"] / seconds for seconds in race.seconds[RETNET + end]]
            best = [race.units["matrix_product"] / seconds for seconds in race.seconds["matrix_product"]]
            target = SHARE_AT_2048 if time == 2048 else None
            what = f"share of matrix speed, {time} tokens, {RETNET}{end}"
            self.row(what, "the machine", ratio_of_rounds(speed, best), target, "least")
        if COMPILED in self.plan.ways:
            for name in (RETNET, TRANSFORMER, LLAMA):
                ratio = race.times_as_fast(name + COMPILED, name)
                self.row(f"training step, {time} tokens, {name}{COMPILED}", name, ratio, None, "least")

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        return self.collected(description, f"training {self.plan.training[0][0]}")


def draw(results: Results, path: Path) -> None:
    """Draw tokens a second by length, and the targets."""
    figure, (lines, targets) = pyplot.subplots(1, 2, figsize=(15, 6), layout="constrained")
    races = [(int(title.split()[1]), race) for title, race in results.races.items()]
    names = [name for name in races[0][1].seconds if name not in machine.tasks()]
    for name in names:
        speeds = [1 / race.seconds_per_unit(name) for _, race in races]
        style = "--" if name.endswith(COMPILED) else "-"
        color = f"C{[one.removesuffix(COMPILED) for one in names].index(name.removesuffix(COMPILED))}"
        lines.plot([time for time, _ in races], speeds, marker="o", linestyle=style, color=color, label=name)
    lines.set_xscale("log", base=2)
    lines.set_xticks([time for time, _ in races], [str(time) for time, _ in races])
    lines.set_ylim(bottom=0)
    lines.set_xlabel("tokens of a training step")
    lines.set_ylabel("tokens a second")
    lines.legend(fontsize=8)
    draw_targets(targets, results.rows)
    about, plan = results.machine, results.plan
    words = f"{plan['num_layers']} layers of {plan['hidden_size']} channels, vocabulary {plan['vocab_size']}"
    finish(figure, path, f"{words}, {about['threads']} threads of {about['cpu']}, torch {about['torch']}")


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark(
        "compiled_training", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw
    )


if __name__ == "__main__":
    main()
