"""The folder of a run: its files, its configuration, and what may differ when it is resumed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast, get_args

from retentive.checkpoints.weights import RUN_FORMAT
from retentive.data.manifest import MANIFEST_FILE
from retentive.data.token_store import TokenStore
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import check_version, explain_odd_content, read_json, write_atomically
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import config_to_dict, described_now
from retentive.retrieval.blocks.chunking import CHUNKS
from retentive.retrieval.manifest import CURRENT
from retentive.training.objectives.registry import objective_name
from retentive.training.processes.parallelism import Precision
from retentive.training.processes.processes import Processes
from retentive.training.run.checkpoint_folder import checkpoint_folders, checkpoint_name
from retentive.training.run.config import TrainConfig
from retentive.training.run.first_model import first_digests

CONFIG_FILE = "config.json"
CHECKPOINTS_FOLDER = "checkpoints"
METRICS_FILE = "metrics.jsonl"
MODEL_FOLDER = "model"
TENSORBOARD_FOLDER = "tensorboard"
CURRICULUM_FILE = "curriculum.json"
"""In the folder of a curriculum."""
_CURE = "restore it, or give another folder as run"
FORMAT = RUN_FORMAT
FORMAT_VERSION = 1

_MAY_CHANGE = (
    *(f"training.{part}" for part in ("run", "store", "held_out", "checkpoints", "metrics")),
    *(f"training.hardware.{part}" for part in ("device", "strategy", "accumulation", "sequence_parallel")),
    *(f"training.hardware.{part}" for part in ("backpropagation", "workers", "compile")),
    *(f"training.{part}" for part in ("retrofit", "init", "neighbours.folder", "neighbours.model")),
)
"""Options that may differ when a run is resumed: none changes what is learned, apart from rounding and dropout draws.
Folders may move: the digests of their content are compared instead."""


def describe_run(
    model: FamilyConfig,
    config: TrainConfig,
    store: TokenStore,
    *,
    neighbours: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the resolved configuration of a run, as ``config.json`` holds it.

    Args:
        model: Config of the model.
        config: How it is trained, in a precision that is settled.
        store: The text.
        neighbours: Keys of the tables of neighbours that the model reads, by split.
    """
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": version("retentive"),
        "model": config_to_dict(model),
        "training": {
            **asdict(config),
            "objective": {"name": objective_name(config.objective), **asdict(cast("Any", config.objective))},
        },
        "data": {
            "tokens_sha256": store.manifest.files["train-tokens"].sha256,
            "tokenizer": store.manifest.tokenizer.fingerprint,
            "neighbours": dict(neighbours or {}),
            **first_digests(config),
            "objective": dict(config.objective.digests()),
        },
    }
    return json.loads(json.dumps(described, default=str))  # paths as strings, tuples as lists: as it is read back


def with_kept_decay(config: TrainConfig, processes: Processes) -> TrainConfig:
    """Return the config of a run that goes on with more steps than it was begun with, if it has finished.

    Its learning rate stays at the lowest, where the run left it: the steps until then are kept.

    Args:
        config: As it is asked for now; with a ``schedule.decay_steps`` of its own it is returned as it is.
        processes: Those that train together.
    """
    path, checkpoints = config.run / CONFIG_FILE, checkpoint_folders(config.run / CHECKPOINTS_FOLDER)
    if config.schedule.decay_steps is not None or not checkpoints or not path.exists():
        return config
    kept = processes.together(lambda: read_config(path))[0]["training"]
    decay_steps = kept["schedule"]["decay_steps"]
    if decay_steps is None and config.steps > kept["steps"] and checkpoints[-1].name >= checkpoint_name(kept["steps"]):
        decay_steps = kept["steps"]
    return replace(config, schedule=replace(config.schedule, decay_steps=decay_steps))


def check_run_folder(folder: Path) -> None:
    """Validate that a run may begin or go on in a folder: one that is not a run's holds nothing that a run writes.

    Other files may stand there, such as notes or a log.

    Raises:
        MismatchError: If something else is in the folder, of which the message names what.
    """
    is_run = (folder / CONFIG_FILE).exists() or (folder / CURRICULUM_FILE).exists()
    if is_run or checkpoint_folders(folder / CHECKPOINTS_FOLDER):
        return  # what a run writes first is checked by those who write it
    names = (CHECKPOINTS_FOLDER, METRICS_FILE, MODEL_FOLDER, TENSORBOARD_FOLDER, MANIFEST_FILE, CURRENT, CHUNKS)
    found = [name for name in names if (folder / name).exists()]
    if found:
        raise MismatchError(
            f"run must be a new folder or that of a run, but {folder} holds {', '.join(found)} of something else, such "
            "as a token store or a datastore; give another folder as run."
        )


def settle_config(described: Mapping[str, Any], folder: Path) -> None:
    """Write the configuration into the run's folder, if the run that is there can be resumed with it.

    Raises:
        MismatchError: If the folder holds checkpoints of another configuration, of which the message names what
            differs, or a ``config.json`` of something else.
        DamagedFileError: If the configuration that is there cannot be read.
    """
    path = folder / CONFIG_FILE
    if path.is_file() and read_json(path, cure=_CURE).get("format") != FORMAT:
        raise MismatchError(
            f"run must be a new folder or that of a run, but {path} is of something else, such as a saved model, and "
            "would be replaced; give another folder as run."
        )
    if (folder / CURRICULUM_FILE).exists():
        raise MismatchError(
            f"run must be a new folder or that of a run, but {folder} is that of a curriculum, whose model would be "
            "replaced; give another folder as run."
        )
    if checkpoint_folders(folder / CHECKPOINTS_FOLDER):
        kept = read_config(path)
        differences = _differences(kept, described)
        if differences:
            raise MismatchError(
                _refusal(folder, differences, kept["training"]["steps"], described["training"]["steps"])
            )
    write_atomically(path, (json.dumps(described, indent=2) + "\n").encode())


def _refusal(folder: Path, differences: list[str], steps_before: int, steps: int) -> str:
    if steps < steps_before and len(differences) == 1 and differences[0].startswith("steps was"):
        return (
            f"steps must be at least the {steps_before:,} that run {folder} has been given, for a run does not become "
            f"shorter, but is {steps:,}: give steps={steps_before} or more, or another folder as run."
        )
    longer = ""
    if steps > steps_before and any(difference.startswith("steps was") for difference in differences):
        longer = ", finish the run before it is given more steps, or name its schedule.decay_steps"
    return (
        f"run {folder} was begun with another configuration: {'; '.join(differences)}. Go on with the same "
        f"values{longer}, or give another folder as run."
    )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what keeps a run from being resumed, such as ``seed was 0 and is 1``."""
    old, new = _flat(before), _flat(now)
    ignored = {"format", "format_version", "library_version"}
    ignored |= {f"training.objective.{name}" for name in now["data"]["objective"]}  # files, compared by their digests
    old.setdefault("training.objective.name", "next_token")  # runs of versions that had no other
    old.setdefault("training.lora_rank", 0)
    old.setdefault("training.neighbours.copies", False)
    if _decay_steps(old) == _decay_steps(new):
        ignored.add("training.schedule.decay_steps")
        # The learning rates of the steps done do not depend on how many there will be.
        if new["training.schedule.decay_steps"] is not None and new["training.steps"] >= old["training.steps"]:
            ignored.add("training.steps")
    found: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        free = name in ignored or any(name == part or name.startswith(f"{part}.") for part in _MAY_CHANGE)
        if not free and old.get(name) != new.get(name):
            found.append(f"{name.removeprefix('training.')} was {old.get(name)!r} and is {new.get(name)!r}")
    return found


def _decay_steps(flat: Mapping[str, Any]) -> int:
    decay_steps = flat["training.schedule.decay_steps"]
    return flat["training.steps"] if decay_steps is None else decay_steps


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found.update(_flat(cast("dict[str, Any]", value), f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a run that has checkpoints.

    Raises:
        DamagedFileError: If it is missing, or not what `settle_config` writes.
        MismatchError: If a later version wrote it.
    """
    try:
        content = read_json(path, cure=_CURE)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is missing, though there are checkpoints beside it: {_CURE}.") from error
    if content.get("format") != FORMAT:
        raise DamagedFileError(f"{path} is not the configuration of a run: {_CURE}.")
    check_version(content, path, FORMAT_VERSION, cure="give another folder as run")
    with explain_odd_content(path, cure=_CURE):
        kept = content["training"]
        if not isinstance(kept["steps"], int) or not isinstance(kept["schedule"]["decay_steps"], int | None):
            raise TypeError("steps must be numbers")
        if kept["hardware"]["precision"] not in get_args(Precision):
            raise TypeError("the precision must be settled")
        content["model"] = described_now(content["model"])
    return content
