"""A curriculum as a run: texts of a task or of a token store that grow, checkpoints, and a model in the end."""

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from retentive.checkpoints import save_model
from retentive.config_types import check_count, check_counts, check_types
from retentive.data.batch import Batch
from retentive.data.packing import PackedWindows
from retentive.data.tasks.recurrent_tasks import (
    copy_segments,
    fact_in_filler,
    pairs_in_segments,
    reverse_segments,
)
from retentive.data.token_store import TokenStore
from retentive.files.progress import ProgressBar
from retentive.files.targets import check_folder_target
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import build
from retentive.training.curriculum.fit import HELD_OUT, CurriculumConfig, CurriculumReport, Task, fit_curriculum
from retentive.training.run.run_folder import MODEL_FOLDER, check_run_folder
from retentive.training.step.config import OptimizerConfig
from retentive.training.step.learner import Backpropagation

TaskName = Literal["copy", "reverse", "pairs", "fact", "text"]


@dataclass(frozen=True, kw_only=True)
class CurriculumRunConfig:
    """Train a model on texts that grow stage by stage; started again with the same options, it goes on.

    Args:
        run: Folder for checkpoints, and for the model in the end.
        task: What is learned: "copy" and "reverse" repeat as many segments as the stage says; "pairs" gives the value
            of a key, of as many pairs; "fact" answers with a byte that stood in one of as many segments; "text"
            predicts text of as many segments from ``store``.
        symbols: Symbols of "copy" and "reverse"; keys, and values, of "pairs".
        store: Folder of a token store, for "text".
        batch_size: Texts of a step.
        segment_length: Tokens of a segment; without it, the recurrent memory's own.
        curriculum: The stages.
        steps: Steps at most.
        extra_steps: Steps after the last stage is learned.
        minutes: Time at most, that of earlier starts included; None is no limit.
        learning_rate: The learning rate, after a warm-up of 100 steps.
        backpropagation: How gradients go back through the segments: "plain", "recompute" or "replay".
        checkpoint_every: Steps between checkpoints.
    """

    run: Path
    task: TaskName
    symbols: int = 8
    store: Path | None = None
    batch_size: int = 32
    segment_length: int | None = None
    curriculum: CurriculumConfig = field(default_factory=lambda: CurriculumConfig(stages=(1, 2, 4)))
    steps: int = 10_000
    extra_steps: int = 0
    minutes: float | None = None
    learning_rate: float = 1e-3
    backpropagation: Backpropagation = "plain"
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if (self.task == "text") != (self.store is not None):
            raise ValueError(f"store goes with task='text' and with nothing else, but task is {self.task!r}.")
        check_count("symbols", self.symbols, least=2)
        if self.task in ("fact", "text") and self.symbols != CurriculumRunConfig.symbols:
            raise ValueError(f"symbols must be left out for task={self.task!r}, which has none, but is {self.symbols}.")
        check_counts(self, "batch_size", "steps", "checkpoint_every")
        check_count("extra_steps", self.extra_steps, least=0)
        if self.segment_length is not None:
            check_count("segment_length", self.segment_length, unit="token")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, but is {self.minutes}.")

    @property
    def vocab_size(self) -> int:
        """Token ids of the texts."""
        if self.store is not None:
            return TokenStore.open(self.store).manifest.tokenizer.vocab_size
        return {"pairs": 2 * self.symbols + 2, "fact": 256}.get(self.task, self.symbols + 1)


def run_curriculum(model_config: FamilyConfig, config: CurriculumRunConfig) -> CurriculumReport:
    """Train, or go on training, and save the model as ``run/model``.

    Raises:
        ValueError: If no length of a segment is known.
        MismatchError: If the folder holds a run of other options.
    """
    length = config.segment_length or getattr(model_config, "segment_length", None)
    if length is None:
        raise ValueError(f"segment_length must be given for a {model_config.family}, which has none of its own.")
    for folder in (config.run, config.run / MODEL_FOLDER):
        check_folder_target("run", folder)
    check_run_folder(config.run)
    torch.manual_seed(config.curriculum.seed)
    model = build(model_config)
    with ProgressBar("curriculum", total=len(config.curriculum.stages), unit="stages") as progress:
        report = fit_curriculum(
            model,
            _task(config, length),
            config.curriculum,
            segment_length=length,
            max_steps=config.steps,
            max_seconds=math.inf if config.minutes is None else 60 * config.minutes,
            extra_steps=config.extra_steps,
            optimizer=OptimizerConfig(learning_rate=config.learning_rate),
            backpropagation=config.backpropagation,
            folder=config.run,
            checkpoint_every=config.checkpoint_every,
            described=_described(config),
            on_stage=lambda stage: progress.advance(1),
        )
    tokenizer = None if config.store is None else TokenStore.open(config.store).tokenizer
    save_model(model, config.run / MODEL_FOLDER, tokenizer)
    return report


def _described(config: CurriculumRunConfig) -> dict[str, object]:
    """What decides the batches; a store may move, so its text is known by its digest."""
    described: dict[str, object] = {"name": config.task, "symbols": config.symbols, "batch_size": config.batch_size}
    if config.store is not None:
        described["text"] = TokenStore.open(config.store).manifest.files["train-tokens"].sha256
    return described


def _task(config: CurriculumRunConfig, length: int) -> Task:
    rows, seed, symbols = config.batch_size, config.curriculum.seed, config.symbols
    if config.store is not None:
        return _texts(TokenStore.open(config.store), config, length)

    def batch(step: int, segments: int) -> Batch:
        if config.task == "pairs":
            return pairs_in_segments(
                step,
                batch_size=rows,
                segment_length=length,
                num_pairs=segments,
                num_keys=symbols,
                num_values=symbols,
                seed=seed,
            )
        if config.task == "fact":
            return fact_in_filler(step, batch_size=rows, segment_length=length, segments=segments, seed=seed)
        repeated = copy_segments if config.task == "copy" else reverse_segments
        return repeated(
            step, batch_size=rows, segment_length=length, segments=2 * segments, num_symbols=symbols, seed=seed
        )

    return batch


def _texts(store: TokenStore, config: CurriculumRunConfig, length: int) -> Task:
    curriculum = config.curriculum
    longest = {"train": curriculum.stages[-1]}
    if curriculum.held_out_batches:
        longest["heldout"] = math.ceil(curriculum.stages[-1] * curriculum.held_out_length)
    for split, segments in longest.items():
        tokens = len(store.tokens("train" if split == "train" else "heldout"))
        if segments * length > tokens:
            raise ValueError(
                f"curriculum.stages must fit the store's {split} text, {tokens:,} tokens, with held_out_length where "
                f"texts are held out, but lead to {segments:,} segments of {length:,} tokens."
            )

    @cache
    def windows(split: Literal["train", "heldout"], segments: int) -> PackedWindows:
        return PackedWindows(store, split, segments * length, config.batch_size, config.curriculum.seed)

    def batch(step: int, segments: int) -> Batch:
        if step >= HELD_OUT:
            return windows("heldout", segments).batch(step - HELD_OUT)
        return windows("train", segments).batch(step)

    return batch
