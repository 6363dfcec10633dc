"""A store of a few small documents, and runs that take a second."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retentive.data.prepare import PrepareConfig, prepare
from retentive.models.retnet import RetNetConfig
from retentive.training.config import (
    CheckpointConfig,
    DataConfig,
    HeldOutConfig,
    MetricsConfig,
    ScheduleConfig,
    TrainConfig,
)

SCRIPT = Path(__file__).parent / "run_training.py"


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
    return folder / "store"


def tiny_model(**changes: Any) -> RetNetConfig:
    """A RetNet of a few thousand parameters, with dropout."""
    values = {"vocab_size": 257, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "chunk_size": 8, "dropout": 0.1}
    return RetNetConfig(**{**values, **changes})


def tiny_config(store: Path, run: Path, **changes: Any) -> TrainConfig:
    """Twelve steps on four rows of 16 tokens, with a line of metrics for each."""
    values: dict[str, Any] = {
        "store": store,
        "run": run,
        "steps": 12,
        "data": DataConfig(window=16, batch_size=4),
        "schedule": ScheduleConfig(warmup_steps=3, decay_steps=12),
        "held_out": HeldOutConfig(every=4, windows=6),
        "checkpoints": CheckpointConfig(every=4),
        "metrics": MetricsConfig(every=1),
    }
    return TrainConfig(**{**values, **changes})


@pytest.fixture
def launch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``run_training.py`` in fresh processes, by ``torchrun`` where there are several, and give what came out."""

    def start(*arguments: str, processes: int = 1, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *arguments]
        if processes > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command = [sys.executable, *torchrun, str(SCRIPT), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        if check and done.returncode:
            raise AssertionError(f"{command} failed:\n{done.stdout}\n{done.stderr}")
        return done

    return start
