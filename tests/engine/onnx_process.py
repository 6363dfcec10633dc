"""Steps in onnxruntime beside eager ones, without the shape hook: give names of `MODELS`, or of `CHECKS`."""

import sys
import tempfile
import warnings
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.by_turns import assert_same, check_by_turns
from laws.families import VARIANTS, random_tokens, small_model
from retentive import generate
from retentive.engine.choice import make_steps
from retentive.engine.onnx.file import WRITTEN_OVER
from retentive.engine.packaged import export_steps
from retentive.errors import DamagedFileError, MismatchError
from retentive.models.base import DecoderModel
from retentive.state import ModelState, named_tensors

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "each_mixer": ("hybrid", {"pattern": ("gated_retention", "retention", "attention"), "num_layers": 3}),
    **{f"retnet_{number}": ("retnet", changes) for number, changes in enumerate(({}, *VARIANTS["retnet"]))},
    **{f"hybrid_{number}": ("hybrid", changes) for number, changes in enumerate(({}, *VARIANTS["hybrid"]))},
    **{
        f"transformer_{number}": ("transformer", changes)
        for number, changes in enumerate(({}, *VARIANTS["transformer"]))
    },
    **{f"yoco_{number}": ("yoco", changes) for number, changes in enumerate(({}, *VARIANTS["yoco"]))},
    **{f"rmt_{number}": ("rmt", changes) for number, changes in enumerate(({}, *VARIANTS["rmt"]))},
}
TOLERANCE = 1e-4


def assert_close(found: ModelState, expected: ModelState) -> None:
    assert named_tensors(found).keys() == named_tensors(expected).keys()
    for name, tensor in named_tensors(expected).items():
        torch.testing.assert_close(named_tensors(found)[name], tensor, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@torch.inference_mode()
def check_steps(model: DecoderModel, rows: int) -> None:
    """Logits and states are the model's, whenever they are asked for; a cache outgrows its ring."""
    # Beside float64: eager steps of an associative memory are themselves as inexact as 2e-4.
    exact = deepcopy(model).double()
    state, exact_state = (each(random_tokens(rows, 3)).state for each in (model, exact))
    steps = make_steps(model, "onnx")
    steps.begin()
    mine = steps.own(state)
    count = min(70, (model.longest_text or 70) - 3)
    for number in range(count):
        column = random_tokens(rows, 1, seed=number)
        output, state = exact(column, exact_state), model(column, state).state
        exact_state = output.state
        logits, mine = steps.step(column[:, 0], mine, {})
        largest = float(output.logits.abs().max())
        torch.testing.assert_close(logits.double(), output.logits[:, 0], rtol=0, atol=TOLERANCE * max(1.0, largest))
        if number in (0, 3, count - 1):  # after odd and even numbers of steps, which stand in two memories by turns
            assert_close(steps.value(mine), state)


class Doubled(torch.nn.Linear):
    is_on = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * (2 if self.is_on else -1)


def check_weights_that_change(model: DecoderModel) -> None:
    def check() -> None:
        expected = generate(model, [1, 2], max_new_tokens=8).tokens
        assert_same(generate(model, [1, 2], max_new_tokens=8, engine="onnx").tokens, expected)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    check()
    for parameter in model.parameters():  # a write that torch does not count
        parameter.data.copy_(torch.randn_like(parameter) * 0.3)
    check()
    torch.set_default_dtype(torch.float64)
    check()
    torch.set_default_dtype(torch.float32)
    feed_forward: Any = model.decoder.blocks[0].feed_forward
    feed_forward.activation = torch.tanh  # no weight changes with what is computed
    check()
    feed_forward.input_proj.__class__ = Doubled
    check()
    feed_forward.input_proj.is_on = False  # as an adapter is disabled
    check()
    projection, before = feed_forward.output_proj, feed_forward.output_proj.forward
    projection.forward = lambda x: before(x) + 0.5
    check()


def check_tied_head() -> None:
    """The table of tokens is rounded where it is the head, and a step reads no copy of it.

    Matrices of retention are named as written over where onnxruntime's own operator writes them, and caches are not.
    """
    pattern = ("gated_retention", "attention")
    model = small_model("hybrid", dtype=torch.float32, hidden_size=32, tie_embeddings=True, pattern=pattern)
    state, tokens = model(random_tokens(2, 3)).state, torch.tensor([1, 2])
    expected = model(tokens[:, None], state).logits[:, 0].detach()
    products = sum(isinstance(module, torch.nn.Linear) for module in model.modules()) + 1
    for bits, kind, tolerance in ((None, "Gemm", TOLERANCE), (8, "MatMulNBits", 0.06)):
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            out = Path(folder) / "steps"
            export_steps(model, out, format="onnx", bits=bits)
            program: Any = import_module("onnx").load(str(out / "step.onnx"))
            found_products = [node for node in program.graph.node if node.op_type == kind]
            assert len(found_products) == products
            named = {entry.key: entry.value for entry in program.metadata_props}[WRITTEN_OVER].split()
            assert named == [name for name in named_tensors(state) if name.endswith(".kv") and bits]
            blocks = {entry.i for node in found_products for entry in node.attribute if entry.name == "block_size"}
            assert blocks == ({32} if bits else set())  # larger ones would hold more filling than weights
            steps = make_steps(model, out)
            steps.begin()
            found = steps.step(tokens, steps.own(state), {})[0]
            difference = (found - expected).norm() / expected.norm()
            assert difference < tolerance, (bits, difference)


def check_folder() -> None:
    """A file of weights of 8 bits writes what float32 writes, nearly; other weights, and damage, are refused."""
    model = small_model("hybrid", dtype=torch.float32, hidden_size=32)
    with tempfile.TemporaryDirectory() as folder:
        portable = Path(folder) / "portable"
        export_steps(model, portable, format="onnx")
        program: Any = import_module("onnx").load(str(portable / "step.onnx"))
        assert {node.domain for node in program.graph.node} == {""}  # other programs can run it
        expected = generate(model, [1, 2], max_new_tokens=8).tokens
        assert_same(generate(model, [1, 2], max_new_tokens=8, engine=portable).tokens, expected)
        out = Path(folder) / "steps"
        export_steps(model, out, format="onnx", bits=8)
        state = model(random_tokens(2, 3)).state
        with torch.inference_mode():
            steps = make_steps(model, out)
            steps.begin()
            found = steps.step(torch.tensor([1, 2]), steps.own(state), {})[0]
            expected = model(torch.tensor([[1], [2]]), state).logits[:, 0]
            difference = (found - expected).norm() / expected.norm()
        assert 0 < difference < 0.03, difference
        steps = make_steps(model, out)
        feed_forward: Any = model.decoder.blocks[0].feed_forward
        feed_forward.output_proj.__class__ = Doubled
        with pytest.raises(MismatchError, match=r"must have the parts that were exported.*--format onnx"):
            steps.begin()
        with pytest.raises(MismatchError, match=r"output_proj: .*Doubled, but has .*output_proj: torch\.nn"):
            make_steps(model, out)
        feed_forward.output_proj.__class__ = torch.nn.Linear
        steps.begin()
        model.decoder.blocks[0].register_forward_hook(lambda *_: None)
        with pytest.raises(MismatchError, match="must do nothing beside its steps to be exported"):
            export_steps(model, Path(folder) / "observed", format="onnx")
        content = bytearray((out / "step.onnx").read_bytes())
        content[-100] ^= 0x80  # within weights
        (out / "step.onnx").write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"step.onnx is missing or damaged.*--format onnx"):
            generate(model, [1, 2], max_new_tokens=3, engine=out)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        with pytest.raises(MismatchError, match=r"must be of these weights.*--format onnx"):
            generate(model, [1, 2], max_new_tokens=3, engine=out)


CHECKS = {"tied_head": check_tied_head, "folder": check_folder}


def main() -> None:
    warnings.simplefilter("error")  # the export says nothing that is not of use
    torch.manual_seed(0)
    for name in sys.argv[1:]:
        if name in CHECKS:
            CHECKS[name]()
            continue
        family, changes = MODELS[name]
        model = small_model(family, dtype=torch.float32, **changes).eval()
        for rows in (1, 3):
            check_steps(model, rows)
        check_by_turns(model, "onnx")
        if name == "retnet_0":
            check_weights_that_change(model)


if __name__ == "__main__":
    main()
