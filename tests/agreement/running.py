"""Run a reference in the environment of its package."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.yardsticks.install import yardstick_python

HERE = Path(__file__).parent
REFERENCES = ("torchscale", "yet_another_retnet", "flash_linear_attention")
"""Modules of `references`, and requirements files of `benchmarks/yardsticks`."""


def run_reference(name: str) -> dict[str, dict[str, Any]]:
    """Cases of a reference, computed now.

    Raises:
        FileNotFoundError: If its package is not installed; the message says how to.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases.pt"
        command = [str(yardstick_python(name)), "-W", "ignore", "-m", "references", name, str(file)]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the reference {name} failed:\n{done.stderr}")
        return torch.load(file, weights_only=True)
