"""Steps in onnxruntime are the model's calls; their states are ordinary values."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.onnx_process import MODELS
from laws.families import small_model
from retentive import generate
from retentive.engine.packaged import export_steps
from retentive.layers.quantised import QuantisationConfig
from retentive.models.quantise import quantise


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "names",
    [["each_mixer", "tied_head"], pytest.param([*MODELS, "folder"], marks=pytest.mark.slow)],
    ids=["one", "all"],
)
def test_steps_in_onnxruntime_are_the_models_calls(names: list[str]):
    """In a process without the shape hook: torch cannot trace functions whose shapes are checked at run time."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs retentive[onnx]")
    process = Path(__file__).with_name("onnx_process.py")
    run = subprocess.run([sys.executable, str(process), *names], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert not run.stderr


def test_models_that_it_cannot_run_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Retro reads neighbours.*engine='compile' runs it"):
        generate(small_model("retro", dtype=torch.float32), [1, 2], max_new_tokens=1, engine="onnx")
    with pytest.raises(ValueError, match=r"runs weights in float32, but the model's are in torch.float64"):
        generate(small_model("retnet"), [1, 2], max_new_tokens=1, engine="onnx-int8")
    rounded = small_model("retnet", dtype=torch.float32)
    quantise(rounded, QuantisationConfig(bits=8))
    with pytest.raises(ValueError, match=r"the model's are rounded already.*engine='onnx-int8'"):
        generate(rounded, [1, 2], max_new_tokens=1, engine="onnx")


def test_an_export_that_cannot_be_is_refused(tmp_path: Path):
    model = small_model("retnet", dtype=torch.float32)
    with pytest.raises(ValueError, match="bits must be 8 or 4, with format 'onnx', but is 8 with format 'aoti'"):
        export_steps(model, tmp_path / "out", bits=8)
    with pytest.raises(ValueError, match="format must be one of aoti, onnx, but is 'tflite'"):
        export_steps(model, tmp_path / "out", format="tflite")
    assert not (tmp_path / "out").exists()
