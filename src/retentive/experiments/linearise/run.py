"""From a Transformer to a hybrid: start from its projections, match layer by layer, then distil."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from retentive.checkpoints.manifest import CONFIG_FILE, read_manifest
from retentive.checkpoints.transformers_files import GENERATION_FILE
from retentive.checkpoints.weights import load_model, save_model
from retentive.config_types import check_count, check_counts, check_types
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.experiments.linearise.start import hybrid_config, linear_start
from retentive.files import write_atomically
from retentive.files.targets import check_folder_target
from retentive.models.hybrid import HybridConfig
from retentive.models.transformer import TransformerConfig
from retentive.text.loading import load_tokenizer
from retentive.training.lora import check_lora
from retentive.training.metrics.report import TrainReport
from retentive.training.objectives.distillation import DistillationConfig
from retentive.training.objectives.matching import MatchingConfig
from retentive.training.objectives.protocol import ObjectiveConfig
from retentive.training.run.config import CheckpointConfig, DataConfig, HardwareConfig, HeldOutConfig, TrainConfig
from retentive.training.run.first_model import check_floats
from retentive.training.run.trainer import train
from retentive.training.step.config import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class LineariseConfig:
    """Turn attention layers of a Transformer into retention, whose state has one size.

    The layers begin with the Transformer's projections, learn layer by layer to write what attention writes, and the
    whole model then learns the Transformer's predictions. The same command goes on after a stop.

    Args:
        source: Folder of a Transformer, as "retentive convert" writes it.
        dest: Folder that is made: "start", "matching" and "distillation", each with a model.
        store: Token store of the text to learn on, prepared with the Transformer's tokenizer.
        pattern: Names of mixers, repeated over the layers: attention stays, retention or gated_retention begins.
        matching_steps: Steps in which each new layer learns what attention writes.
        distillation_steps: Steps in which the model learns what the Transformer predicts; 0 leaves them out.
        window: Tokens of a row.
        batch_size: Rows of a step.
        matching_rate: Learning rate of the first steps.
        distillation_rate: Learning rate of the others.
        lora_rank: Of a low-rank change of the mixers (LoRA) that alone learns in the second steps, and that the model
            holds in the end; 0 lets all weights learn.
        seed: Of the order of the text.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
    """

    source: Path
    dest: Path
    store: Path
    pattern: tuple[str, ...] = field(default=("gated_retention", "attention"))
    matching_steps: int = 300
    distillation_steps: int = 300
    window: int = 512
    batch_size: int = 8
    matching_rate: float = 1e-3
    distillation_rate: float = 1e-4
    lora_rank: int = 0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "matching_steps", "window", "batch_size")
        check_count("distillation_steps", self.distillation_steps, least=0)
        check_count("lora_rank", self.lora_rank, least=0)
        if self.lora_rank and not self.distillation_steps:
            raise ValueError(
                f"lora_rank must be 0 where distillation_steps are 0, in which it would learn, but is {self.lora_rank}."
            )


@dataclass(frozen=True, slots=True)
class Linearised:
    """What `linearise` made.

    Attributes:
        model: Folder of the model; None where Ctrl-C ended the training before its end.
        retains: Numbers of the layers that retain.
        reports: Of the steps that were taken.
    """

    model: Path | None
    retains: tuple[int, ...]
    reports: Sequence[TrainReport]


def linearise(config: LineariseConfig) -> Linearised:
    """Make the hybrid, or go on making it.

    Raises:
        MismatchError: If the model is no Transformer that a hybrid can begin as, was trained with another tokenizer
            than the text, or another run is in the folder.
        FileNotFoundError: If a folder holds no model or no tokens.
        ValueError: If an option cannot be.
        ImportError: If LoRA is wanted, and peft is not installed.
    """
    check_folder_target("dest", config.dest)
    if config.lora_rank:
        check_lora()
    made = _start(config)
    retains = tuple(number for number, mixer in enumerate(made.decoder.mixers) if mixer.state_shape[0] == "retention")
    stages: list[tuple[str, ObjectiveConfig, int, float]] = [
        ("matching", MatchingConfig(teacher=config.source), config.matching_steps, config.matching_rate),
    ]
    teacher = DistillationConfig(teacher=config.source)
    stages.append(("distillation", teacher, config.distillation_steps, config.distillation_rate))
    before, reports = config.dest / "start", list[TrainReport]()
    for name, objective, steps, rate in stages:
        if not steps:
            continue
        report = train(made, _options(config, name, objective, steps, rate, before))
        reports.append(report)
        if report.model is None:
            return Linearised(None, retains, reports)
        before = report.model
        _keep_ends(config.source, before)
    return Linearised(before, retains, reports)


def _start(config: LineariseConfig) -> HybridConfig:
    """Write the model of step 0, unless it is there; return its config."""
    manifest = read_manifest(config.source)
    if not isinstance(manifest.config, TransformerConfig):
        raise MismatchError(
            f"source must be the folder of a transformer, but {config.source} holds a {manifest.config.family}."
        )
    check_floats(config.source, "source")
    wanted = hybrid_config(manifest.config, config.pattern)
    if not any(mixer.state_shape[0] == "retention" for mixer in wanted.decoder.mixers):
        raise ValueError(f"pattern must have retention or gated_retention somewhere, but is {config.pattern}.")
    store = TokenStore.open(config.store)
    folder = config.dest / "start"
    if (folder / CONFIG_FILE).is_file():
        if read_manifest(folder).config != wanted:
            raise MismatchError(f"{folder} was begun with another pattern or model: choose another dest.")
        return wanted
    text = torch.from_numpy(store.tokens("train")[: config.window].astype("int64"))[None]
    model, _ = linear_start(load_model(config.source), wanted, text)
    save_model(model, folder, load_tokenizer(config.source))
    _keep_ends(config.source, folder)
    return wanted


def _options(
    config: LineariseConfig, name: str, objective: ObjectiveConfig, steps: int, rate: float, before: Path
) -> TrainConfig:
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    return TrainConfig(
        store=config.store,
        run=config.dest / name,
        steps=steps,
        seed=config.seed,
        objective=objective,
        init=before,
        lora_rank=config.lora_rank if name == "distillation" else 0,
        data=DataConfig(window=config.window, batch_size=config.batch_size),
        optimizer=OptimizerConfig(learning_rate=rate),
        held_out=HeldOutConfig(every=None),
        checkpoints=CheckpointConfig(every=50, keep_best=False),
        # One precision for all stages, which may run on several CPUs.
        hardware=HardwareConfig(device=config.device, precision="auto" if on_gpu else "float32"),
    )


def _keep_ends(source: Path, dest: Path) -> None:
    """Copy what ends a text, for generation."""
    if (source / GENERATION_FILE).is_file():
        write_atomically(dest / GENERATION_FILE, (source / GENERATION_FILE).read_bytes())
