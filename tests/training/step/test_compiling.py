"""Training through ``torch.compile`` is training."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laws.families import small_model
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


@pytest.mark.parametrize(("family", "whole"), [("retnet", True), ("yoco", True), ("rmt", False), ("retro", False)])
def test_what_unrolls_a_call_is_compiled_block_by_block(family: str, whole: bool):
    model = small_model(family)
    compile_in_place(model)
    compiled = {part for part in model.modules() if part._compiled_call_impl is not None}
    assert compiled == ({model} if whole else {part for part in model.modules() if isinstance(part, Block)})


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
