"""Run a reference in the environment of its package."""

import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.yardsticks.install import yardstick_python

HERE = Path(__file__).parent
REFERENCES = ("torchscale", "yet_another_retnet", "flash_linear_attention")
"""Modules of `references`, and requirements files of `benchmarks/yardsticks`."""


PACKAGES = ("yet_another_retnet", "recurrent_memory_transformer_pytorch", "retro_pytorch")
"""Packages with a twin in `retentive.compat`, and requirements files of `benchmarks/yardsticks`."""


def calls_of(package: str) -> dict[str, list[list[str]]]:
    """What can be called in a package, and with which arguments.

    Raises:
        FileNotFoundError: If it is not installed; the message says how to.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calls.json"
        _run(package, "references.calls", package, str(file))
        return json.loads(file.read_text())


def retro_dataset(folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What retro_pytorch's dataset reads of the files in a folder, which it may make longer."""
    file = folder / "read.pt"
    _run("retro_pytorch", "references.retro_dataset", str(folder), str(file))
    return torch.load(file, weights_only=True)


@cache
def run_reference(name: str) -> dict[str, dict[str, Any]]:
    """Cases of a reference, computed now.

    Raises:
        FileNotFoundError: If its package is not installed; the message says how to.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases.pt"
        _run(name, "references", name, str(file))
        return torch.load(file, weights_only=True)


def _run(package: str, *arguments: str) -> None:
    command = [str(yardstick_python(package)), "-W", "ignore", "-m", *arguments]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the reference {package} failed:\n{done.stderr}")
