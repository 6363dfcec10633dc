"""RetNet against yet-another-retnet and against our Transformer, side by side: ``python -m benchmarks.retnet``.

All three have one shape; the two RetNets are the very same model, with the same parameters, biases, norms and decays
(yet-another-retnet decides which). Writes ``runs/bench/retnet.json`` and ``retnet.png`` and prints a table. The machine
should have nothing else to do; it takes about five minutes.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.racing import machine
from benchmarks.racing.command import run_benchmark
from benchmarks.racing.interleave import Contestant, Race, Task, ratio_of_rounds
from benchmarks.racing.measuring import Measuring
from benchmarks.racing.plan import TINY, ModelPlan, ours, theirs
from benchmarks.racing.results import Results
from benchmarks.reports.retnet import draw

OURS, TRANSFORMER, YARDSTICK = "retnet", "transformer", "yet-another-retnet"
BY_CHUNKS = f"{YARDSTICK} by chunks"
ALL_LOGITS = f"{YARDSTICK} all logits"
ONE_THREAD = f"{YARDSTICK} on one thread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelPlan):
    """Sizes of the model and of the works, and how often each is done.

    Attributes:
        intermediate_size: Channels inside the feed-forward.
        training: Tokens of a training step -> rounds.
        prefill: Tokens of a prompt.
        prefill_chunks: Sizes of chunk that the yardstick may choose its best from.
        written_chunk: Size of chunk where the yardstick's chunks are for information.
        batches: Rows of a decoded batch.
        contexts: Tokens before the decoded ones.
        steps: Decoded tokens of one repetition.
        transformer_steps: The same after long contexts, where the Transformer is slow.
        rounds: Rounds of prefill and decode.
    """

    intermediate_size: int = 512
    training: tuple[tuple[int, int], ...] = ((512, 15), (2048, 9), (4096, 5))
    prefill: int = 16_384
    prefill_chunks: tuple[int, ...] = (512, 1024)
    written_chunk: int = 512
    batches: tuple[int, ...] = (1, 8)
    contexts: tuple[int, ...] = (128, 2048, 8192, 32_768)
    steps: int = 32
    transformer_steps: int = 4
    rounds: int = 15


FULL = Plan()
QUICK = Plan(
    **TINY,
    intermediate_size=48,
    training=((32, 2), (96, 2)),
    prefill=160,
    prefill_chunks=(32, 64),
    written_chunk=32,
    batches=(1, 2),
    contexts=(16, 64),
    steps=2,
    transformer_steps=2,
)

# What is to be reached.
TRAINING_TARGETS = {512: 1.15, 2048: 2.5, 4096: 5.0}
PEAK_TARGET, PREFILL_TARGET, DECODE_TARGET, SHARE_TARGET, GROWTH_TARGET = 0.35, 2.5, 2.0, 0.7, 1.1


def as_theirs(shape: dict[str, Any]) -> dict[str, Any]:
    """The config of a RetNet that is what yet-another-retnet makes of a shape, option by option."""
    same = {
        "value_dim": shape["hidden_size"] // shape["num_heads"],
        "activation": "swish",
        "norm": "layer_norm",
        "head_norm": "layer_norm",
        "final_norm": False,
        "rotary_pairs": "interleaved",
        "bias": True,
        "head_bias": True,
    }
    return {"family": "retnet", **shape, **same}


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """Who competes, the machine itself included."""
    shape = plan.sizes("intermediate_size")
    found = [
        machine.contestant(threads=threads),
        ours(OURS, "retentive_model", config=as_theirs(shape), threads=threads),
        ours(TRANSFORMER, "retentive_model", config={"family": "transformer", **shape}, threads=threads),
    ]
    if with_yardstick:
        found.append(theirs(YARDSTICK, "yet_another_retnet", "yet_another_retnet", **shape, threads=threads))
    return found


class Benchmark(Measuring[Plan]):
    """Runs the races of a plan in an arena and collects what they show."""

    @property
    def models(self) -> list[str]:
        """Who takes part."""
        return [OURS, TRANSFORMER, *([YARDSTICK] if self.with_yardstick else [])]

    def run(self) -> None:
        """Measure everything. Training comes before what runs in inference mode (see the yardstick's ``save``)."""
        if self.with_yardstick:
            self.same_model()
        for time, rounds in self.plan.training:
            self.training(time, rounds)
        self.peak_memory(self.plan.training[-1][0])
        self.prefill()
        for batch in self.plan.batches:
            self.decode(batch)
        self.decode_by_context()

    def same_model(self) -> None:
        """Give our RetNet the yardstick's weights and refuse to go on if its logits are not the same."""
        with TemporaryDirectory() as folder:
            path = str(Path(folder) / "yardstick.pt")
            self.arena.facts(Task(contestant=YARDSTICK, work="save", arguments={"path": path, "time": 300}))
            facts = self.arena.facts(Task(contestant=OURS, work="take_over", arguments={"path": path}))
        if not facts["relative_difference"] < 1e-4:
            raise ValueError(
                "Logits of our RetNet and of yet-another-retnet with the same weights must differ by less than 1e-4 "
                f"of the largest, but differ by {facts['relative_difference']:.2g}: they are not the same model."
            )

    def training(self, time: int, rounds: int) -> None:
        """Training steps on rows of ``time`` tokens; the machine's matrix speed is taken between them."""
        tasks = {name: Task(contestant=name, work="training_step", arguments={"time": time}) for name in self.models}
        tasks |= self.plan.machine_tasks()
        if self.with_yardstick:
            arguments = {"time": time, "chunk_size": self.plan.written_chunk}
            tasks[BY_CHUNKS] = Task(contestant=YARDSTICK, work="training_step_by_chunks", arguments=arguments)
        race = self.race(f"training {time}", tasks, rounds)
        what = f"training step, {time} tokens"
        self._against(race, what, YARDSTICK, YARDSTICK, TRAINING_TARGETS.get(time))
        self._against(race, what, BY_CHUNKS, f"{YARDSTICK} by hand-written chunks", None)
        self._against(race, what, TRANSFORMER, "our Transformer", None)
        flop = race.facts[OURS]["matrix_flop"]
        matrix = race.units["matrix_product"]
        ours = [flop / seconds for seconds in race.seconds[OURS]]
        best = [matrix / seconds for seconds in race.seconds["matrix_product"]]
        target = SHARE_TARGET if time == 2048 else None
        what = f"share of matrix speed, training at {time} tokens"
        self.row(what, "the machine", ratio_of_rounds(ours, best), target, "least")

    def peak_memory(self, time: int) -> None:
        """Resident memory that a first training step needs, each in a fresh process."""
        for name in self.models:
            task = Task(contestant=name, work="training_step", arguments={"time": time})
            self.peaks[name] = self.arena.peak_memory(task)
        for name in self.models[1:]:
            ratio = ratio_of_rounds([self.peaks[OURS]], [self.peaks[name]])
            target = PEAK_TARGET if name == YARDSTICK else None
            self.row(f"peak memory of a training step, {time} tokens", name, ratio, target, "most")

    def prefill(self) -> None:
        """A long prompt, of which the state and the last logits are wanted."""
        time = self.plan.prefill
        tasks = {name: Task(contestant=name, work="prefill", arguments={"time": time}) for name in (OURS, TRANSFORMER)}
        if self.with_yardstick:
            for size in self.plan.prefill_chunks:
                arguments = {"time": time, "chunk_size": size}
                tasks[f"{YARDSTICK} {size}"] = Task(contestant=YARDSTICK, work="prefill", arguments=arguments)
            arguments = {"time": time, "chunk_size": self.plan.written_chunk}
            tasks[ALL_LOGITS] = Task(contestant=YARDSTICK, work="prefill_all_logits", arguments=arguments)
        race = self.race("prefill", tasks, self.plan.rounds // 2)
        what = f"prefill, {time} tokens"
        if self.with_yardstick:
            best = race.fastest([f"{YARDSTICK} {size}" for size in self.plan.prefill_chunks])
            self._against(race, what, best, YARDSTICK, PREFILL_TARGET)
            self._against(race, what, ALL_LOGITS, f"{YARDSTICK} with all logits, as its own call gives", None)
        self._against(race, what, TRANSFORMER, "our Transformer", None)

    def decode(self, batch: int) -> None:
        """One-token steps after a short prompt."""
        arguments = {"batch": batch, "context": self.plan.contexts[0], "steps": self.plan.steps}
        tasks = {name: Task(contestant=name, work="decode", arguments=arguments) for name in self.models}
        if self.with_yardstick:
            tasks[ONE_THREAD] = Task(contestant=YARDSTICK, work="decode_on_one_thread", arguments=arguments)
        race = self.race(f"decode batch {batch}", tasks, self.plan.rounds)
        what = f"one-token decode, batch {batch}"
        self._against(race, what, YARDSTICK, YARDSTICK, DECODE_TARGET)
        self._against(race, what, ONE_THREAD, f"{YARDSTICK}, set to one thread by hand", None)
        self._against(race, what, TRANSFORMER, "our Transformer", None)

    def decode_by_context(self) -> None:
        """One-token steps after ever longer prompts: RetNet's cost does not grow."""
        tasks: dict[str, Task] = {}
        for name, steps in ((OURS, self.plan.steps), (TRANSFORMER, self.plan.transformer_steps)):
            for context in self.plan.contexts:
                arguments = {"batch": 1, "context": context, "steps": steps}
                tasks[f"{name} {context}"] = Task(contestant=name, work="decode", arguments=arguments)
        race = self.race("decode by context", tasks, self.plan.rounds)
        first, last = self.plan.contexts[0], self.plan.contexts[-1]
        for name, target in ((OURS, GROWTH_TARGET), (TRANSFORMER, None)):
            growth = race.times_as_fast(f"{name} {first}", f"{name} {last}")
            what = f"decode time per token of {name}, context {last}"
            self.row(what, f"itself, context {first}", growth, target, "most")

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        times = [time for time, _ in self.plan.training]
        return self.collected(description, f"training {2048 if 2048 in times else times[-1]}")

    def _against(self, race: Race, what: str, opponent: str, opponent_name: str, target: float | None) -> None:
        if opponent in race.seconds:
            self.row(what, opponent_name, race.times_as_fast(OURS, opponent), target, "least")


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark("retnet", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw)


if __name__ == "__main__":
    main()
