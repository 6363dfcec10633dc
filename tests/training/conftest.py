"""A store of a few small documents, and runs that take a second."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from laws.families import small_config, small_model
from retentive.checkpoints.weights import save_model
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.token_store import TokenStore
from retentive.training.metrics.log import read_metrics
from retentive.training.metrics.report import TrainReport
from retentive.training.objectives import OBJECTIVES
from retentive.training.processes.processes import alone
from retentive.training.processes.sharded_tensors import read_tensors, stored_tensors
from retentive.training.run import config as configs
from retentive.training.run.checkpoint_folder import checkpoint_folders
from retentive.training.run.config import TrainConfig
from retentive.training.run.trainer import train

# Torch logs a hundred lines for each checkpoint, which would bury the reason of a failed test.
logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.WARNING)

SCRIPT = Path(__file__).parent / "run_training.py"

PARTS: dict[str, Any] = {
    "data": configs.DataConfig,
    "optimizer": configs.OptimizerConfig,
    "schedule": configs.ScheduleConfig,
    "held_out": configs.HeldOutConfig,
    "checkpoints": configs.CheckpointConfig,
    "hardware": configs.HardwareConfig,
    "metrics": configs.MetricsConfig,
    "neighbours": configs.NeighbourDataConfig,
}

SMALL: dict[str, Any] = {
    "steps": 12,
    "data": {"window": 16, "batch_size": 4},
    "schedule": {"warmup_steps": 3, "decay_steps": 12},
    "held_out": {"every": 4, "windows": 6},
    "checkpoints": {"every": 4},
    "metrics": {"every": 1},
}
"""Twelve steps on four rows of 16 tokens, with a line of metrics for each."""

STREAMED = {"mode": "streamed", "window": 8, "batch_size": 4, "windows_per_graph": 2}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen documents of different lengths in bytes; some of them held out."""
    folder = tmp_path_factory.mktemp("corpus")
    source = folder / "text"
    source.mkdir()
    for number in range(16):
        sentence = f"document {number} says that {number} and {number + 1} follow one another; "
        (source / f"{number}.txt").write_text(sentence * (2 + number))
    prepare(PrepareConfig(source=source, output=folder / "store", heldout_fraction=0.3))
    # The teacher of runs that distil one.
    teacher = small_model("retnet", dtype=torch.float32, vocab_size=257)
    save_model(teacher, folder / "teacher", TokenStore.open(folder / "store").tokenizer)
    return folder / "store"


def asked_configs(store: Path, asked: dict[str, Any]) -> tuple[Any, TrainConfig]:
    """The configs of a tiny run, with what is asked for in place of the small values; its model has dropout."""
    changes = dict(asked)
    model: dict[str, Any] = {"family": "retnet", "vocab_size": 257, "dropout": 0.1, **changes.pop("model", {})}
    family = model.pop("family")
    if family == "rmt":
        encoder = model.pop("bidirectional", False)
        model = {"backbone": small_config("transformer", **model), "bidirectional": encoder}
    if family == "retro":
        model = {"backbone": small_config(model.pop("backbone", "transformer"), **model), "chunk_offset": 1}
        model |= dict.fromkeys(("encoder_dropout", "cross_dropout"), model["backbone"].dropout)
    run = Path(changes.pop("run"))
    # Numbers of processes and parts are compared, on any CPU.
    values = {**SMALL, **changes, "hardware": {"precision": "float32", **changes.get("hardware", {})}}
    if "objective" in values:
        objective = dict(values["objective"])
        if objective["name"] == "distillation":
            objective.setdefault("teacher", store.parent / "teacher")
        values["objective"] = OBJECTIVES[objective.pop("name")](**objective)
    made = {name: PARTS[name](**value) if name in PARTS else value for name, value in values.items()}
    return small_config(family, **model), TrainConfig(store=store, run=run, **made)


def run(store: Path, folder: Path, **asked: Any) -> TrainReport:
    """Make a tiny run."""
    return train(*asked_configs(store, {"run": folder, **asked}))


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Everything that the newest checkpoint of a run holds."""
    path = checkpoint_folders(run / "checkpoints")[-1]
    found = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in stored_tensors(path).items()}
    read_tensors(path, found, alone())
    return found


def step_lines(run: Path) -> list[tuple[Any, ...]]:
    """What does not depend on the clock in each step's line of metrics."""
    names = ("step", "loss", "bits_per_byte", "gradient_norm", "learning_rate")
    return [tuple(line[name] for name in names) for line in read_metrics(run / "metrics.jsonl", "train")]


Launch = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def launch(store: Path) -> Launch:
    """Make runs in fresh processes, by ``torchrun`` where there are several; gives what each process said of each."""

    def start(*asked: dict[str, Any], processes: int = 1) -> list[dict[str, Any]]:
        done = subprocess.run(
            command(store, *asked, processes=processes),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return sorted(results, key=lambda result: result["number"])

    return start


def command(store: Path, *asked: dict[str, Any], processes: int = 1) -> list[str]:
    """The command that makes runs."""
    arguments = [str(SCRIPT), str(store), json.dumps(asked, default=str)]
    if processes > 1:
        arguments = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *arguments]
    return [sys.executable, *arguments]


def outputs_of_group(script: Path, count: int, *arguments: str) -> list[str]:
    """What each of some processes of a script prints, which get their rank and these arguments."""
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), *arguments],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=280) for process in started]
    assert [process.returncode for process in started] == [0] * count, "\n".join(errors for _, errors in said)
    return [output for output, _ in said]


def environment() -> dict[str, str]:
    """One quiet thread a process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
