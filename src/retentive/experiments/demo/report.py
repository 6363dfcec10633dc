"""The report of the demo: what was made and measured, as sections of one page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.machine import describe_machine
from retentive.evaluation.measures.speed import SpeedReport
from retentive.evaluation.model_evaluation import Evaluation
from retentive.evaluation.report.charts import (
    bits_per_byte_chart,
    position_chart,
    prefill_chart,
    read_loss_history,
    results_table,
    speed_charts,
    training_chart,
)
from retentive.evaluation.report.document import Passage, Report
from retentive.models.protocol import LanguageModel
from retentive.training.run.config import TrainConfig

Evaluations = Mapping[str, Evaluation]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRun:
    """A trained model: its folder, its training's metrics, seconds and options."""

    model: Path
    metrics: Path
    seconds: float
    config: TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Text that was streamed, and what a new process went on with from the saved state."""

    prompt: str
    text: str
    resumed: str
    session: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Everything that the page tells; mappings are by the models' names, in the order they are shown."""

    models: Mapping[str, LanguageModel]
    runs: Mapping[str, DemoRun]
    evaluations: Evaluations
    speed: SpeedReport
    sample: Sample
    store: TokenStore
    seconds: float


def make_report(measured: Measurements) -> Report:
    """Arrange the measurements as a page."""
    names = list(measured.models)
    bits = {name: measured.evaluations[name].bits_per_byte for name in names}
    positions = {
        name: found.by_position for name, found in measured.evaluations.items() if found.by_position is not None
    }
    config = next(iter(measured.runs.values())).config
    histories = {
        name: read_loss_history(run.metrics, tokens_per_step=run.config.data.tokens_per_step)
        for name, run in measured.runs.items()
    }
    parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in measured.models.items()}
    seconds = {name: run.seconds for name, run in measured.runs.items()}
    speed, state = speed_charts(measured.speed)
    return Report(
        title="Models that remember: a demo",
        summary=_summary(measured),
        sections=(
            results_table(bits, parameters=parameters, training_seconds=seconds, speed=measured.speed),
            training_chart(histories),
            bits_per_byte_chart(bits),
            position_chart(positions, training_window=config.data.window),
            speed,
            state,
            prefill_chart(measured.speed),
            _passage(measured.sample, names[0]),
        ),
        facts=_facts(measured, config),
    )


def _summary(measured: Measurements) -> str:
    names = list(measured.models)
    best = {name: found.windows.bits_per_byte for name, found in measured.evaluations.items()}
    sizes = ", ".join(f"{value:.3f} ({name})" for name, value in best.items())
    last = max(point.context for point in measured.speed.points)
    states = ", ".join(
        f"{point.state_bytes:,} bytes ({point.model})" for point in measured.speed.points if point.context == last
    )
    return (
        f"{', '.join(names[:-1])} and {names[-1]} were trained on the same text, for as many steps, with decoders of "
        "equal size. RETRO is the Transformer, fitted in as many steps more to read neighbours: training documents "
        "that are like what it has read. "
        f"Held-out text takes {sizes} bits per byte. After {last:,} tokens the state that is carried takes {states}. "
        "The state of the text below was saved, and a new process went on from it with the same tokens as an "
        "uninterrupted run."
    )


def _passage(sample: Sample, name: str) -> Passage:
    return Passage(
        title="A sample of text",
        prompt=sample.prompt,
        text=sample.text + sample.resumed,
        caption=(
            f"{name}, temperature 0.7, top-p 0.95, seed 1; the prompt begins a held-out document. "
            f"The last part was written by a new process from {sample.session.name}."
        ),
    )


def _facts(measured: Measurements, config: TrainConfig) -> tuple[tuple[str, str], ...]:
    splits = measured.store.manifest.splits
    corpus = ", ".join(
        f"{split}: {record.documents:,} documents, {record.text_bytes:,} bytes, {record.tokens:,} tokens"
        for split, record in splits.items()
    )
    tokens = config.steps * config.data.tokens_per_step
    return (
        *describe_machine(torch.device("cpu")).items(),
        ("corpus", corpus),
        ("tokenizer", f"BPE of {measured.store.manifest.tokenizer.vocab_size:,} ids, learned from the training split"),
        (
            "training of each model",
            f"{config.steps:,} steps of {config.data.batch_size} windows of {config.data.window}: {tokens:,} tokens",
        ),
        ("everything", f"{measured.seconds / 60:.1f} minutes"),
    )
