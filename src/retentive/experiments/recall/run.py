"""Recall over a million bytes: models are trained, asked and drawn, one seed after another."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from retentive.checkpoints import load_model, save_model
from retentive.config_types import check_kind, check_types
from retentive.evaluation.measures.machine import describe_machine
from retentive.evaluation.report.pictures import draw, require_matplotlib, styles
from retentive.experiments.recall.corpus import Corpus, read_corpus
from retentive.experiments.recall.questions import MEMORY, Answers, ask, make_trials
from retentive.experiments.recall.report import (
    NO_MEMORY,
    SeedResult,
    markdown,
    recall_chart,
    rows_of,
    seed_result_from_dict,
)
from retentive.experiments.recall.training import PHASES, SEGMENT_LENGTH, MemoryKind, Training, train_to_recall
from retentive.files import explain_odd_content, folder_with_content, read_json, write_atomically
from retentive.files.progress import ProgressBar
from retentive.files.targets import check_folder_target

LENGTHS = (1024, 10_240, 102_400, 1_048_576)


@dataclass(frozen=True, kw_only=True)
class RecallConfig:
    """Train small models from scratch, then ask each for a fact that it read once, after more and more bytes.

    Args:
        output: Folder for the results. Started again with the same options, the command goes on where it stopped; more
            seeds and lengths may then be asked for.
        corpus: Folder of text, or one file, in which facts are hidden; without it, the sources of Python's standard
            library on this machine. A tenth of it is not trained on, and asked about.
        seeds: One model is trained for each.
        lengths: Bytes of the texts, whole segments of 512.
        trials: Texts of each length.
        memory: Kind of memory: "sign" (memory tokens of +1 and -1), "continuous", "noisy" (continuous with noise in
            training), or "associative".
        minutes: Time that training one model may take.
    """

    output: Path = Path("runs/recall")
    corpus: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    lengths: tuple[int, ...] = LENGTHS
    trials: int = 64
    memory: MemoryKind = "sign"
    minutes: float = 15.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
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


def run_recall(config: RecallConfig) -> list[SeedResult]:
    """Train and ask a model of each seed; write ``recall.json``, ``recall.md`` and ``recall.png`` after each.

    Raises:
        ValueError: If the folder holds a run of other options or another text.
    """
    check_kind("config", config, RecallConfig)
    require_matplotlib()
    check_folder_target("output", config.output)
    corpus = read_corpus(config.corpus)
    results: list[SeedResult] = []
    with folder_with_content(config.output):
        for seed in config.seeds:
            result = _read_seed(config, corpus, seed)
            if result is None:
                result = _train_seed(config, corpus, seed)
            results.append(_ask_seed(config, corpus, result).at_lengths(config.lengths))
            _write(config, corpus, results)
    return results


def _train_seed(config: RecallConfig, corpus: Corpus, seed: int) -> SeedResult:
    """Train both models of a seed and save them; nothing is asked yet."""
    print(f"\nseed {seed}: training from random weights", flush=True)
    trained = _train(config.memory, config, corpus, seed, None)
    stages = sum(len(phase.stages) for phase in PHASES)
    learned = sum(len(phase.stages) for phase in trained.phases)
    print(f"  {learned} of {stages} stages learned in {trained.seconds:.0f} s, {sum(trained.steps)} steps", flush=True)
    without = _train("none", config, corpus, seed, trained.steps)
    for model, carries_state in ((trained.model, True), (without.model, False)):
        save_model(model, _model_folder(config, seed, carries_state=carries_state))
    result = SeedResult(
        seed=seed,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        is_learned=trained.is_learned,
        training_seconds=trained.seconds,
        training_processor_seconds=trained.processor_seconds,
        steps=trained.steps,
    )
    _write_seed(config, corpus, result)
    return result


def _ask_seed(config: RecallConfig, corpus: Corpus, result: SeedResult) -> SeedResult:
    """Ask the models of a seed at each length at which they were not asked yet."""
    for length in config.lengths:
        if length in result.lengths:
            continue
        answers, baseline = (
            _ask(config, corpus, length, result.seed, carries_state=carries_state) for carries_state in (True, False)
        )
        rows = (*rows_of(answers), *rows_of(baseline, {MEMORY: NO_MEMORY}))
        result = replace(
            result,
            rows=(*result.rows, *rows),
            seconds=(*result.seconds, (length, answers.seconds)),
            resident_bytes=(*result.resident_bytes, (length, answers.resident_bytes)),
        )
        _write_seed(config, corpus, result)
    return result


def _train(
    kind: MemoryKind, config: RecallConfig, corpus: Corpus, seed: int, steps: tuple[int, ...] | None
) -> Training:
    label = f"train, seed {seed}" if kind != "none" else f"train without memory, seed {seed}"
    # Without memory the second stage is never learned: one stage is all that can be shown.
    total = sum(len(phase.stages) if kind != "none" else 1 for phase in PHASES)
    with ProgressBar(label, total=total, unit="stages") as progress:
        return train_to_recall(
            kind,
            seed=seed,
            max_seconds=config.minutes * 60,
            steps=steps,
            filler=corpus.training,
            on_stage=lambda stage: progress.advance(1),
        )


def _ask(config: RecallConfig, corpus: Corpus, length: int, seed: int, *, carries_state: bool) -> Answers:
    model = load_model(_model_folder(config, seed, carries_state=carries_state))
    trials = make_trials(config.trials, length=length, segment_length=SEGMENT_LENGTH, seed=seed, filler=corpus.asked)
    if not carries_state:
        return ask(model, trials, carries_state=False)
    with ProgressBar(f"read {length:,} bytes, seed {seed}", total=length * len(trials), unit="B") as progress:
        answers = ask(model, trials, on_bytes=progress.advance)
    hits, asked = answers.hits(MEMORY)
    print(f"  {length:>9,} bytes: {hits} of {asked} right, in {answers.seconds:.0f} s", flush=True)
    return answers


def _model_folder(config: RecallConfig, seed: int, *, carries_state: bool) -> Path:
    return config.output / (f"seed_{seed}" if carries_state else f"seed_{seed}_without")


def _seed_file(config: RecallConfig, seed: int) -> Path:
    return config.output / f"seed_{seed}.json"


def _settings(config: RecallConfig, corpus: Corpus) -> dict[str, Any]:
    """The options that decide the result of a seed at a length."""
    return {"trials": config.trials, "memory": config.memory, "corpus": corpus.digest}


def _write_seed(config: RecallConfig, corpus: Corpus, result: SeedResult) -> None:
    content = {"settings": _settings(config, corpus), "minutes": config.minutes, "result": asdict(result)}
    write_atomically(_seed_file(config, result.seed), json.dumps(content, indent=1).encode())


def _read_seed(config: RecallConfig, corpus: Corpus, seed: int) -> SeedResult | None:
    """What an earlier run of the same options found, or None.

    Raises:
        ValueError: If the folder holds a run of other options.
    """
    path = _seed_file(config, seed)
    if not path.is_file():
        return None
    cure = "delete it: the seed is then trained again"
    content = read_json(path, cure=cure)
    with explain_odd_content(path, cure=cure):
        settings, result = content["settings"], seed_result_from_dict(content["result"])
        minutes = float(content.get("minutes", config.minutes))  # files of earlier versions have none
    if settings != _settings(config, corpus):
        raise ValueError(
            f"output must hold no run of other options or another text, but {path} was made with "
            f"{settings}, not {_settings(config, corpus)}; choose another output."
        )
    if not result.is_learned and config.minutes > minutes:
        print(f"seed {seed}: not learned in {minutes:g} minutes, so it is trained anew with {config.minutes:g}")
        return None
    print(f"seed {seed}: read from {path}")
    return result


def _write(config: RecallConfig, corpus: Corpus, results: Sequence[SeedResult]) -> None:
    """All files, after every seed."""
    chart = recall_chart(results)
    content = {
        "machine": describe_machine(torch.device("cpu")),
        "settings": {**_settings(config, corpus), "lengths": list(config.lengths)},
        "seeds": [asdict(result) for result in results],
    }
    write_atomically(config.output / "recall.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(config.output / "recall.md", (markdown(results) + "\n").encode())
    write_atomically(config.output / "recall.png", draw(chart, styles([curve.name for curve in chart.curves])))
