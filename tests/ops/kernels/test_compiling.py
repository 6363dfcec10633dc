"""Every program compiles for GPUs, on a machine without one, and fits the smallest of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernels

SHARED_MEMORY = 99 * 1024
"""Bytes that a block may have at compute capability 8.6 and 8.9, the least of all from 8.0."""


def test_every_program_compiles_and_fits(tmp_path: Path):
    tests = str(Path(__file__).parents[2])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([*sys.path, tests])}
    run = subprocess.run(
        [sys.executable, "-m", "ops.kernels.compiling"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    memory = json.loads(run.stdout)
    assert len(memory) == 5 * 3 * 2
    assert max(memory.values()) <= SHARED_MEMORY, memory
