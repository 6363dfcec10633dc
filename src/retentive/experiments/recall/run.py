"""Recall over a million bytes: models are trained, asked and drawn, one seed after another."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from retentive.checkpoints import save_model
from retentive.evaluation.measures.machine import describe_machine
from retentive.evaluation.report.pictures import draw, require_matplotlib, styles
from retentive.experiments.recall.questions import MEMORY, Answers, ask, make_trials
from retentive.experiments.recall.report import (
    NO_MEMORY,
    Row,
    SeedResult,
    markdown,
    recall_chart,
    rows_of,
    seed_result_from_dict,
)
from retentive.experiments.recall.training import PHASES, SEGMENT_LENGTH, MemoryKind, Training, train_to_recall
from retentive.files import read_json, write_atomically
from retentive.files.progress import ProgressBar
from retentive.files.targets import check_folder_target
from retentive.models.rmt import RecurrentMemoryTransformer

LENGTHS = (1024, 10_240, 102_400, 1_048_576)


@dataclass(frozen=True, kw_only=True)
class RecallConfig:
    """Train small models from scratch, then ask each for a fact that it read once, after more and more bytes.

    Args:
        output: Folder for the results. Started again with the same options, the command goes on with the next seed.
        seeds: One model is trained for each.
        lengths: Bytes of the texts, whole segments of 512.
        trials: Texts of each length.
        memory: Kind of memory: "sign" (memory tokens of +1 and -1), "continuous", "noisy" (continuous with noise in
            training), or "associative".
        minutes: Time that training one model may take.
    """

    output: Path = Path("runs/recall")
    seeds: tuple[int, ...] = (0, 1, 2)
    lengths: tuple[int, ...] = LENGTHS
    trials: int = 64
    memory: MemoryKind = "sign"
    minutes: float = 15.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be at least one, each another, but are {list(self.seeds)}.")
        if not self.lengths or any(a >= b for a, b in zip(self.lengths, self.lengths[1:], strict=False)):
            raise ValueError(f"lengths must grow and be at least one, but are {list(self.lengths)}.")
        if not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, but is {self.minutes}.")
        if self.memory == "none":
            raise ValueError("memory must be a kind of memory, but is 'none', which every run is compared with anyway.")
        for length in self.lengths:
            make_trials(self.trials, length=length, segment_length=SEGMENT_LENGTH, seed=0)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that decide the result of a seed."""
        return {"lengths": list(self.lengths), "trials": self.trials, "memory": self.memory}


def run_recall(config: RecallConfig) -> list[SeedResult]:
    """Train and ask a model of each seed; write ``recall.json``, ``recall.md`` and ``recall.png`` after each.

    Raises:
        ValueError: If the folder holds a run of other options.
    """
    require_matplotlib()
    check_folder_target("output", config.output)
    config.output.mkdir(parents=True, exist_ok=True)
    results: list[SeedResult] = []
    for seed in config.seeds:
        found = _read_seed(config, seed)
        results.append(_run_seed(config, seed) if found is None else found)
        _write(config, results)
    return results


def _run_seed(config: RecallConfig, seed: int) -> SeedResult:
    """Train both models of a seed and ask them."""
    print(f"\nseed {seed}: training from random weights", flush=True)
    trained = _train(config.memory, config, seed, None)
    last = sum(len(phase.stages) for phase in PHASES)
    learned = sum(len(phase.stages) for phase in trained.phases)
    print(f"  {learned} of {last} stages learned in {trained.seconds:.0f} s, {sum(trained.steps)} steps", flush=True)
    save_model(trained.model, config.output / f"seed_{seed}")
    without = _train("none", config, seed, trained.steps)
    rows, answers = list[Row](), list[Answers]()
    for length in config.lengths:
        answers.append(_ask(trained.model, config, length, seed, carries_state=True))
        rows += rows_of(answers[-1])
        baseline = _ask(without.model, config, length, seed, carries_state=False)
        rows += rows_of(baseline, {MEMORY: NO_MEMORY})
    result = SeedResult(
        seed=seed,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        is_learned=trained.is_learned,
        training_seconds=trained.seconds,
        training_processor_seconds=trained.processor_seconds,
        steps=trained.steps,
        rows=tuple(rows),
        seconds=tuple((found.length, found.seconds) for found in answers),
        resident_bytes=tuple((found.length, found.resident_bytes) for found in answers),
    )
    content = {"settings": config.settings, "result": asdict(result)}
    write_atomically(_seed_file(config, seed), json.dumps(content, indent=1).encode())
    return result


def _train(kind: MemoryKind, config: RecallConfig, seed: int, steps: tuple[int, ...] | None) -> Training:
    label = f"train, seed {seed}" if kind != "none" else f"train without memory, seed {seed}"
    # Without memory the second stage is never learned: one stage is all that can be shown.
    total = sum(len(phase.stages) if kind != "none" else 1 for phase in PHASES)
    with ProgressBar(label, total=total, unit="stages") as progress:
        return train_to_recall(
            kind,
            seed=seed,
            max_seconds=config.minutes * 60,
            steps=steps,
            on_stage=lambda stage: progress.advance(1),
        )


def _ask(
    model: RecurrentMemoryTransformer, config: RecallConfig, length: int, seed: int, *, carries_state: bool
) -> Answers:
    trials = make_trials(config.trials, length=length, segment_length=SEGMENT_LENGTH, seed=seed)
    if not carries_state:
        return ask(model, trials, carries_state=False)
    with ProgressBar(f"read {length:,} bytes, seed {seed}", total=length * len(trials), unit="B") as progress:
        answers = ask(model, trials, on_bytes=progress.advance)
    hits, asked = answers.hits(MEMORY)
    print(f"  {length:>9,} bytes: {hits} of {asked} right, in {answers.seconds:.0f} s", flush=True)
    return answers


def _seed_file(config: RecallConfig, seed: int) -> Path:
    return config.output / f"seed_{seed}.json"


def _read_seed(config: RecallConfig, seed: int) -> SeedResult | None:
    """What an earlier run of the same options found, or None.

    Raises:
        ValueError: If the folder holds a run of other options.
    """
    path = _seed_file(config, seed)
    if not path.is_file():
        return None
    content = read_json(path, cure="delete it: the seed is then trained again")
    if content["settings"] != config.settings:
        raise ValueError(
            f"output must hold no run of other options, but {path} was made with {content['settings']}, not "
            f"{config.settings}; choose another output."
        )
    print(f"seed {seed}: read from {path}")
    return seed_result_from_dict(content["result"])


def _write(config: RecallConfig, results: Sequence[SeedResult]) -> None:
    """All files, after every seed."""
    chart = recall_chart(results)
    content = {
        "machine": describe_machine(torch.device("cpu")),
        "settings": config.settings,
        "seeds": [asdict(result) for result in results],
    }
    write_atomically(config.output / "recall.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(config.output / "recall.md", (markdown(results) + "\n").encode())
    write_atomically(config.output / "recall.png", draw(chart, styles([curve.name for curve in chart.curves])))
