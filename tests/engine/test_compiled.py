"""Steps over a state in rings, compiled or not, are the model's calls; their states are ordinary values."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.compiled_process import check_engine
from laws.families import beside, case_name, cases, random_tokens, small_model
from retentive import generate
from retentive.engine.compiled import CompiledSteps
from retentive.models.registry import family_names
from retentive.state import named_tensors


def run_process(*arguments: str, program: str = "compiled_process.py") -> None:
    process = Path(__file__).with_name(program)
    run = subprocess.run([sys.executable, str(process), *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_steps_in_rings_are_the_models_calls(family: str, changes: dict):
    check_engine(small_model(family, **changes), family, backend=None, steps=9)


@torch.inference_mode()
def test_a_cache_outgrows_its_rings():
    check_engine(small_model("hybrid"), "hybrid", backend=None, steps=70, rows=2)


@torch.inference_mode()
def test_all_that_a_step_writes_is_known_to_stay_in_place():
    """Or else no CUDA graph is captured."""
    model = small_model("hybrid")
    steps = CompiledSteps(model, backend=None)
    steps.begin()
    steps.step(torch.tensor([1, 2]), steps.own(model(random_tokens(2, 3)).state), {})
    running = steps._running
    assert running is not None
    for tensor in (running.tokens, running.clock, *running.rings.tensors.values()):
        assert getattr(tensor, "_dynamo_static_input_type", None) == "unguarded"


@pytest.mark.slow
def test_compiled_steps_are_the_models_calls():
    run_process("aot_eager", *family_names())


def test_inductor_goes_on_from_an_eager_state_and_back():
    """In a process without the shape hook: torch cannot trace functions whose shapes are checked at run time."""
    run_process("inductor")


@pytest.mark.slow
def test_steps_are_exported_and_run_without_compiling():
    run_process("export")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["compile", "onnx", "aoti", "turns"])
def test_ten_thousand_tokens_stay_equal(engine: str):
    if engine in ("onnx", "turns"):
        pytest.importorskip("onnxruntime", reason="needs retentive[onnx]")
    run_process(engine, program="long_process.py")


def test_hooks_are_called():
    model, seen = small_model("retnet"), []
    model.decoder.blocks[1].mixer.register_forward_hook(lambda *_: seen.append(1))
    generate(model, [1, 2], max_new_tokens=4, engine="compile")
    assert len(seen) == 4


def test_an_unknown_engine_is_named():
    with pytest.raises(
        ValueError,
        match="engine must be one of eager, compile, onnx, onnx-int8, onnx-int4, or a folder that 'retentive export' "
        "wrote, but is 'fast'",
    ):
        generate(small_model("retnet"), [1, 2], max_new_tokens=1, engine="fast")


class FromElsewhere(torch.nn.Module):
    """A model that says nothing of borders."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("tokens_within", "step_within"):
                raise
            return getattr(self.inner, name)


def test_a_model_that_says_nothing_of_borders_is_refused():
    with pytest.raises(ValueError, match="model must have tokens_within and step_within"):
        CompiledSteps(FromElsewhere(small_model("retnet")))


@torch.inference_mode()
def test_neighbours_are_read_between_compiled_steps():
    model = small_model("retro")
    tokens = random_tokens(2, 14)
    state = model(tokens[:, :2]).state
    steps = CompiledSteps(model, backend=None)
    steps.begin()
    mine = steps.own(state)
    for column in tokens[:, 2:].split(1, 1):
        here = steps.at_border(mine)
        given = {} if model.tokens_within(here) else beside(model, column, here)
        output = model(column, state, **given)
        logits, mine = steps.step(column[:, 0], here, given)
        state = output.state
        torch.testing.assert_close(logits, output.logits[:, 0], rtol=0, atol=1e-10)
    assert named_tensors(steps.value(mine)).keys() == named_tensors(state).keys()
