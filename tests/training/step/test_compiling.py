"""Training through ``torch.compile`` is training."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laws.families import small_model
from models.test_protocol import AverageConfig, MovingAverage
from retentive.layers.block import Block
from retentive.training.run.config import HardwareConfig
from retentive.training.step.compiling import compile_in_place
from training.conftest import final_tensors

# In a process of its own: torch.compile cannot trace functions whose shapes are checked at run time.
RUN = """
import sys
from pathlib import Path
from retentive.training.run.trainer import train
from training.conftest import asked_configs
store, folder, family, compiled = sys.argv[1:]
asked = {"hardware": {"compile": compiled == "True"}, "model": {"family": family, "dropout": 0.0}}
train(*asked_configs(Path(store), {"run": Path(folder), **asked}))
"""


@pytest.mark.parametrize("family", ["retnet", "yoco", "rmt", "retro"])
def test_blocks_are_compiled_and_nothing_else(family: str):
    model = small_model(family)
    compile_in_place(model)
    compiled = {part for part in model.modules() if part._compiled_call_impl is not None}
    assert compiled == {part for part in model.modules() if isinstance(part, Block)}


def test_a_model_without_blocks_is_compiled_whole():
    model = MovingAverage(AverageConfig(vocab_size=16, hidden_size=4))
    compile_in_place(model)
    assert model._compiled_call_impl is not None


def test_sharded_models_are_not_compiled():
    with pytest.raises(ValueError, match=r"hardware\.compile must be false with hardware\.strategy='fsdp'"):
        HardwareConfig(compile=True, strategy="fsdp")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["retnet", "rmt"])
def test_compiled_steps_train_the_same_weights(family: str, store: Path, tmp_path: Path):
    for compiled in (False, True):
        command = [sys.executable, "-c", RUN, str(store), str(tmp_path / str(compiled)), family, str(compiled)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        assert run.returncode == 0, run.stderr[-3000:]
    plain, compiled_ones = final_tensors(tmp_path / "False"), final_tensors(tmp_path / "True")
    assert plain.keys() == compiled_ones.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled_ones[name], tensor, rtol=1e-3, atol=1e-4)
