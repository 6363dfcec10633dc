"""A segment step in onnxruntime is the one in torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "names", [["recalling"], pytest.param(["causal", "encoder", "unread_first", "one_token"], marks=pytest.mark.slow)]
)
def test_chained_steps_in_onnxruntime_equal_torch(names: list[str]):
    """Three steps of other lengths, for one row and for three, of one file."""
    pytest.importorskip("onnxscript", reason="needs retentive[onnx]")
    pytest.importorskip("onnxruntime", reason="needs retentive[onnx]")
    command = [sys.executable, str(Path(__file__).with_name("onnx_process.py")), *names]
    run = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    differences = json.loads(run.stdout.splitlines()[-1])
    assert sorted(differences) == sorted(names)
    assert max(differences.values()) < 1e-4, differences
