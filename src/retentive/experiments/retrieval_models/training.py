"""The models: RETRO, RETROfit, and Transformers of the same size that were trained for as many steps, or as long."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from retentive.data.token_store import TokenStore
from retentive.experiments.retrieval_models.config import ModelsConfig
from retentive.experiments.retrieval_models.corpus import CHUNK_SIZE
from retentive.experiments.retrieval_models.workers import side_by_side
from retentive.files import explain_odd_content, read_json, write_json
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import build
from retentive.models.retro import RetroConfig, retro_over
from retentive.models.transformer import TransformerConfig
from retentive.training.run.checkpoint_folder import checkpoint_folders, read_progress
from retentive.training.run.config import (
    CheckpointConfig,
    DataConfig,
    HardwareConfig,
    HeldOutConfig,
    NeighbourDataConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from retentive.training.run.run_folder import CHECKPOINTS_FOLDER
from retentive.training.run.step_time import seconds_per_step
from retentive.training.run.trainer import train

TRANSFORMER, LONGER, RETRO, RETROFIT = "transformer", "transformer-longer", "retro", "retrofit"
KINDS = (TRANSFORMER, RETRO, LONGER, RETROFIT)
WINDOW, STRIDE = 512, 384
Trained = Mapping[tuple[str, int], Path]
"""The folder of each model by kind and seed."""


def model_configs(vocab_size: int) -> dict[str, FamilyConfig]:
    """Configs of a RETRO, of a Transformer with as many weights, in wider feed-forwards, and of a RETRO around that."""
    backbone = TransformerConfig(vocab_size=vocab_size, hidden_size=64, num_layers=3, num_heads=2, tie_embeddings=True)
    retro = _retro(backbone)
    more = num_parameters(retro) - num_parameters(backbone)
    wider = backbone.decoder.feed_forward.intermediate_size + round(
        more / (2 * backbone.num_layers * backbone.hidden_size)
    )
    transformer = replace(backbone, intermediate_size=wider)
    return {TRANSFORMER: transformer, LONGER: transformer, RETRO: retro, RETROFIT: _retro(transformer)}


def _retro(backbone: TransformerConfig) -> RetroConfig:
    return replace(retro_over(backbone), chunk_size=CHUNK_SIZE, cross_layers=(2, 3), share_embeddings=True)


def num_parameters(config: FamilyConfig) -> int:
    """Weights of the model that a config describes."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def train_all(config: ModelsConfig, store: TokenStore, kinds: Sequence[str] = KINDS) -> Trained:
    """Train every model that is not trained yet."""
    configs = model_configs(store.manifest.tokenizer.vocab_size)
    first = [(kind, seed) for seed in config.seeds for kind in (TRANSFORMER, RETRO) if kind in kinds]
    second = [(kind, seed) for seed in config.seeds for kind in (RETROFIT, LONGER) if kind in kinds]
    steps = {TRANSFORMER: config.steps, RETRO: config.steps, RETROFIT: config.fit_steps}
    if LONGER in kinds:
        steps[LONGER] = round(config.steps * _step_ratio(config, configs))
    # One process with one thread for each model: small models gain nothing from a second thread.
    with side_by_side(config.side_by_side) as do_all:
        folders: dict[tuple[str, int], Path] = {}
        for wanted in (first, second):  # RETROfit starts from what was trained first
            jobs = [(configs[kind], _train_config(config, kind, seed, store, steps[kind])) for kind, seed in wanted]
            folders |= dict(zip(wanted, do_all(_train, jobs), strict=True))
    return folders


def training_seconds(model: Path) -> float:
    """Seconds of all training steps of a model in its run's folder, on the clock."""
    newest = checkpoint_folders(model.parent / CHECKPOINTS_FOLDER)[-1]
    return read_progress(newest).seconds


def _step_ratio(config: ModelsConfig, configs: Mapping[str, FamilyConfig]) -> float:
    """A step of RETRO in steps of the Transformer: measured in turns, once for a folder."""
    path = config.output / "step_time.json"
    if path.exists():
        cure = "delete it: it is then measured again"
        measured = read_json(path, cure=cure)
        with explain_odd_content(path, cure=cure):
            return float(measured["ratio"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = _data(config)
    turns = [[seconds_per_step(configs[kind], data, repetitions=1) for kind in (RETRO, TRANSFORMER)] for _ in range(5)]
    torch.set_num_threads(threads)
    ratio = statistics.median(retro / transformer for retro, transformer in turns)
    write_json(path, {"ratio": ratio})
    return ratio


def _data(config: ModelsConfig) -> DataConfig:
    return DataConfig(window=WINDOW, batch_size=config.batch_size)


def _train_config(config: ModelsConfig, kind: str, seed: int, store: TokenStore, steps: int) -> TrainConfig:
    neighbours = NeighbourDataConfig(
        near_duplicates=config.near_duplicates, aligned=config.aligned, copies=config.copies
    )
    if kind == RETRO:  # a fitted one keeps its backbone, which reads no neighbours
        neighbours = replace(neighbours, share_without=0.1, own_text_steps=config.own_text_steps)
    if kind == RETROFIT:
        neighbours = replace(neighbours, own_text_steps=min(config.own_text_steps, config.fit_steps // 2))
    return TrainConfig(
        store=store.folder,
        run=config.output / f"{kind}-{seed}",
        steps=steps,
        seed=seed,
        data=_data(config),
        retrofit=config.output / f"{TRANSFORMER}-{seed}" / "model" if kind == RETROFIT else None,
        neighbours=neighbours if kind in (RETRO, RETROFIT) else NeighbourDataConfig(),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        schedule=ScheduleConfig(warmup_steps=min(40, steps - 1)),
        held_out=HeldOutConfig(every=None),
        checkpoints=CheckpointConfig(every=100, keep_last=1, keep_best=False),
        hardware=HardwareConfig(precision="float32"),  # of all models that are compared, and of steps that are timed
    )


def _train(model: FamilyConfig, config: TrainConfig) -> Path:
    torch.set_num_threads(1)
    report = train(model, config)
    if report.model is None:
        raise KeyboardInterrupt
    return report.model
