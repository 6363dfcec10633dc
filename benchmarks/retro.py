"""RETRO against retro-pytorch, side by side: ``python -m benchmarks.retro``.

Both have one shape; the other one has learned positions and null keys that ours lacks, so they cannot have the same
weights. Writes ``runs/bench/retro.json``, ``.md`` and ``.png`` and prints a table. The machine should have nothing else
to do; it takes about five minutes.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.racing import machine
from benchmarks.racing.command import run_benchmark
from benchmarks.racing.interleave import Contestant, Race, Task, ratio_of_rounds
from benchmarks.racing.measuring import Measuring
from benchmarks.racing.plan import TINY, ModelPlan, ours, theirs
from benchmarks.racing.results import Results
from benchmarks.reports.retro import draw

OURS, RETENTION, YARDSTICK = "retro", "retro over retention", "retro-pytorch"

TRAINING_TARGET, PEAK_TARGET, DECODE_TARGET, GROWTH_TARGET = 1.5, 0.5, 30.0, 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelPlan):
    """Sizes of the model and of the works, and how often each is done.

    Attributes:
        encoder_layers: Blocks of the encoder.
        cross_layers: Those of them that read neighbours.
        chunk_size: Tokens of a chunk.
        neighbours: Of each chunk, each two chunks long.
        chunks: Chunks that came before, at first and at last.
        time: Tokens of a training step.
        context: Tokens before the decoded ones.
        steps: Decoded tokens of one repetition of ours: a chunk.
        yardstick_steps: The same of the other one, which is slow.
    """

    num_layers: int = 6
    encoder_layers: int = 2
    cross_layers: tuple[int, ...] = (2, 4, 6)
    chunk_size: int = 64
    neighbours: int = 2
    chunks: tuple[int, int] = (2, 30)
    time: int = 1024
    context: int = 512
    steps: int = 64
    yardstick_steps: int = 2
    matrix_size: int = 4096


FULL = Plan()
QUICK = Plan(
    **{**TINY, "num_heads": 1},  # the other package takes no heads below 32 channels
    **{
        "encoder_layers": 1,
        "cross_layers": (2,),
        "chunk_size": 8,
        "time": 32,
        "context": 16,
        "steps": 8,
        "chunks": (1, 3),
    },
)


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """Who competes, the machine itself included."""
    found = [machine.contestant(threads=threads)]
    for name, family in ((OURS, "transformer"), (RETENTION, "retnet")):
        options = {"neighbours": plan.neighbours, "threads": threads}
        found.append(ours(name, "retro_model", config=our_config(plan, family), **options))
    if with_yardstick:
        options = plan.sizes("encoder_layers", "chunk_size", "neighbours")
        options |= {"cross_layers": list(plan.cross_layers), "threads": threads}
        longest = max(plan.time, plan.context + plan.yardstick_steps)
        found.append(theirs(YARDSTICK, "retro_pytorch", "retro_pytorch_model", **options, max_length=longest))
    return found


def our_config(plan: Plan, family: str) -> dict[str, Any]:
    """A RETRO of the yardstick's make: one table of tokens, feed-forwards four times as wide."""
    backbone = {"family": family, **plan.sizes(), "intermediate_size": 4 * plan.hidden_size, "head_bias": True}
    return {
        "family": "retro",
        "backbone": backbone,
        "chunk_size": plan.chunk_size,
        "cross_layers": list(plan.cross_layers),
        "encoder_hidden_size": plan.hidden_size,
        "encoder_num_layers": plan.encoder_layers,
        "encoder_num_heads": plan.num_heads,
        "share_embeddings": True,
    }


class Benchmark(Measuring[Plan]):
    """Runs the races of a plan in an arena and collects what they show."""

    @property
    def names(self) -> list[str]:
        """Who takes part."""
        return [OURS, RETENTION, *([YARDSTICK] if self.with_yardstick else [])]

    def run(self) -> None:
        """Measure everything. Training comes before what runs in inference mode."""
        time = {"time": self.plan.time}
        tasks = {name: Task(contestant=name, work="training_step", arguments=time) for name in self.names}
        race = self.race("training step", tasks, self.plan.rounds)
        self._against(race, f"training step, {self.plan.time} tokens", TRAINING_TARGET)
        self.peaks = {name: self.arena.peak_memory(task) for name, task in tasks.items()}
        if self.with_yardstick:
            for name in (OURS, RETENTION):
                ratio = ratio_of_rounds([self.peaks[name]], [self.peaks[YARDSTICK]])
                target = PEAK_TARGET if name == OURS else None
                self.row(f"peak memory of a training step, {name}", YARDSTICK, ratio, target, "most")
        self._decode()
        self._growth()
        self.race("machine", self.plan.machine_tasks(), self.plan.rounds)

    def _decode(self) -> None:
        """New tokens after some chunks, neighbours of a new chunk included."""
        tasks: dict[str, Task] = {}
        for name in self.names:
            steps = self.plan.yardstick_steps if name == YARDSTICK else self.plan.steps
            arguments = {"context": self.plan.context, "steps": steps}
            tasks[name] = Task(contestant=name, work="decode", arguments=arguments)
        race = self.race("decode", tasks, self.plan.rounds)
        self._against(race, f"decode at context {self.plan.context}", DECODE_TARGET)

    def _growth(self) -> None:
        """Time per token does not depend on how many chunks came before."""
        first, last = self.plan.chunks
        tasks: dict[str, Task] = {}
        for name in (RETENTION, OURS):
            for chunks in (first, last):
                arguments = {"context": chunks * self.plan.chunk_size, "steps": self.plan.steps}
                tasks[f"{name}, chunk {chunks}"] = Task(contestant=name, work="decode", arguments=arguments)
        race = self.race("decode by chunks", tasks, self.plan.rounds)
        for name, target in ((RETENTION, GROWTH_TARGET), (OURS, None)):
            growth = race.times_as_fast(f"{name}, chunk {first}", f"{name}, chunk {last}")
            self.row(f"time per token of {name}, chunk {last}", f"itself, chunk {first}", growth, target, "most")

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        return self.collected(description, "machine")

    def _against(self, race: Race, what: str, target: float) -> None:
        if self.with_yardstick:
            self.row(what, YARDSTICK, race.times_as_fast(OURS, YARDSTICK), target, "least")
            self.row(f"{what}, over retention", YARDSTICK, race.times_as_fast(RETENTION, YARDSTICK), None, "least")


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark("retro", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw)


if __name__ == "__main__":
    main()
