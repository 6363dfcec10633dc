"""Recurrent memory against recurrent-memory-transformer-pytorch, side by side: ``python -m benchmarks.rmt``.

Both have one shape and nearly as many parameters; the other one's blocks have a learned null key and a mix of values
that ours lack, so they cannot have the same weights. Writes ``runs/bench/rmt.json`` and ``rmt.png`` and prints a table.
The machine should have nothing else to do; it takes about five minutes.
"""

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.racing import machine
from benchmarks.racing.command import run_benchmark
from benchmarks.racing.interleave import Contestant, Task, ratio_of_rounds
from benchmarks.racing.measuring import Measuring
from benchmarks.racing.plan import TINY, ModelPlan, ours, theirs
from benchmarks.racing.results import Results
from benchmarks.reports.rmt import draw

OURS, YARDSTICK = "rmt", "recurrent-memory-transformer-pytorch"
FUSED = f"{YARDSTICK}, fused attention"
RECALLING = " with recall"
PASSED_ON = ", passed on"

TRAINING_TARGET, REPLAY_TARGET, GENERATION_TARGET, SEGMENT_TARGET = 1.3, 1.5, 8.0, 1.1
GROWTH_LIMIT = 20e6
"""Bytes by which resident memory may grow while a million tokens are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelPlan):
    """Sizes of the model and of the works, and how often each is done.

    Attributes:
        segment_length: Tokens of a segment.
        num_memory_tokens: Memory tokens.
        segments: The segment that others are compared with, and the last one.
        time: Tokens of a training step.
        prompt: Tokens of a prompt.
        steps: Tokens that are generated after it.
    """

    vocab_size: int = 256
    segment_length: int = 256
    num_memory_tokens: int = 32
    time: int = 2048
    segments: tuple[int, int] = (10, 4000)
    prompt: int = 128
    steps: int = 64


FULL = Plan()
QUICK = Plan(**TINY, segment_length=16, num_memory_tokens=2, time=64, prompt=8, steps=12, segments=(2, 40))


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """Who competes, each with and without recall of the segment before."""
    found: list[Contestant] = [machine.contestant(threads=threads)]
    for recalls in (False, True):
        config = our_config(plan, recalls=recalls)
        found.append(ours(_name(OURS, recalls), "recurrent_memory", config=config, threads=threads))
        for name in (YARDSTICK, FUSED) if with_yardstick else ():
            sizes = plan.sizes("segment_length", "num_memory_tokens")
            options = {**sizes, "recalls": recalls, "fused_attention": name == FUSED, "threads": threads}
            package = "recurrent_memory_transformer_pytorch"
            found.append(theirs(_name(name, recalls), package, package, **options))
    return found


def our_config(plan: Plan, *, recalls: bool) -> dict[str, Any]:
    """A recurrent memory of the yardstick's make: learned positions, feed-forwards gated by GELU, RMSNorm."""
    backbone = {
        "family": "transformer",
        **plan.sizes(),
        "intermediate_size": plan.hidden_size * 4 * 2 // 3,
        "gated": True,
        "positions": "learned",
        "max_positions": plan.segment_length,
        "head_bias": True,
    }
    return {
        "family": "rmt",
        "backbone": backbone,
        "segment_length": plan.segment_length,
        "num_memory_tokens": plan.num_memory_tokens,
        **({"xl_length": plan.segment_length, "xl_gradient": "none"} if recalls else {}),
    }


def _name(contestant: str, recalls: bool) -> str:
    return contestant + (RECALLING if recalls else "")


class Benchmark(Measuring[Plan]):
    """Runs the races of a plan in an arena and collects what they show."""

    @property
    def opponents(self) -> list[str]:
        """Whom our model is measured against."""
        return [YARDSTICK, FUSED] if self.with_yardstick else []

    def run(self) -> None:
        """Measure everything."""
        for recalls in (False, True):
            suffix = RECALLING if recalls else ""
            time = {"time": self.plan.time}
            self._contest(f"training step{suffix}", "training_step", time, TRAINING_TARGET, recalls)
            self._contest(f"memory replay{suffix}", "replay_step", time, REPLAY_TARGET, recalls)
            length = {"prompt": self.plan.prompt, "steps": self.plan.steps}
            self._contest(f"generation{suffix}", "generate", length, GENERATION_TARGET, recalls)
        self._long_text()
        self.race("machine", self.plan.machine_tasks(), self.plan.rounds)

    def _contest(self, what: str, work: str, arguments: dict[str, int], target: float, recalls: bool) -> None:
        """Ours against the yardstick as it comes; its other attention, and what it leaves out, are shown beside."""
        ours, *others = [_name(name, recalls) for name in (OURS, *self.opponents)]
        tasks = {name: Task(contestant=name, work=work, arguments=arguments) for name in (ours, *others)}
        if recalls and work == "training_step":
            # The plain pass makes the recalled keys and reads none; this one reads them, as ours does.
            tasks |= {name + PASSED_ON: replace(tasks[name], work="recalling_step") for name in others}
        race = self.race(what, tasks, self.plan.rounds)
        for label in tasks:
            if label != ours:
                self.row(what, label, race.times_as_fast(ours, label), target if label in others[:1] else None, "least")

    def _long_text(self) -> None:
        """A segment late in a text takes the time of an early one, and memory does not grow."""
        first, last = self.plan.segments
        tasks = {
            f"segment {segment}": Task(contestant=OURS, work="read_segment", arguments={"segment": segment})
            for segment in (first, last)
        }
        race = self.race("segments of a long text", tasks, self.plan.rounds)
        growth = race.times_as_fast(f"segment {first}", f"segment {last}")
        self.row(f"time of segment {last}", f"segment {first}", growth, SEGMENT_TARGET, "most")
        grown = ratio_of_rounds([race.facts[f"segment {last}"]["growth_bytes"]], [GROWTH_LIMIT])
        tokens = last * self.plan.segment_length
        self.row(f"resident memory that reading {tokens:,} tokens adds", "20 MB", grown, 1.0, "most")

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        return self.collected(description, "machine")


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark("rmt", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw)


if __name__ == "__main__":
    main()
