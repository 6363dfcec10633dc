"""Compiled steps beside calls, without the hook: give ``aot_eager FAMILY...``, ``inductor`` or ``export``."""

import sys
import tempfile
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.by_turns import assert_same, check_by_turns
from laws.families import beside, random_tokens, small_model
from retentive import generate
from retentive.engine.choice import make_steps
from retentive.engine.compiled import CompiledSteps
from retentive.engine.packaged import export_steps
from retentive.errors import MismatchError
from retentive.models.base import DecoderModel
from retentive.state import named_tensors

TOLERANCE = 1e-10


@torch.inference_mode()
def check_engine(model: DecoderModel, family: str, *, backend: str | None, steps: int, rows: int = 3) -> None:
    """Steps after a prompt give the logits and, whenever asked, the states that calls give."""
    tokens = random_tokens(rows, 6)
    takes_mask = family not in ("rmt", "retro")
    mask = torch.arange(6) >= torch.tensor([[0], [4], [1]])[:rows] if takes_mask else None
    state = model(tokens, mask=mask, **beside(model, tokens)).state
    engine = CompiledSteps(model, backend=backend)
    engine.begin()
    mine = engine.own(state)
    for number in range(steps):
        column = random_tokens(rows, 1, seed=number)
        output = model(column, state)
        state = output.state
        logits, mine = engine.step(column[:, 0], mine, {})
        torch.testing.assert_close(logits, output.logits[:, 0], rtol=0, atol=TOLERANCE)
        if number % 5 == 3 or number == steps - 1:
            found = named_tensors(engine.value(mine))
            for name, tensor in named_tensors(state).items():
                if name in found:
                    torch.testing.assert_close(found[name], tensor, rtol=0, atol=10 * TOLERANCE)
                else:
                    assert bool(tensor.all()), name  # a mark that says nothing


def goes_on_across_engines() -> None:
    """Tokens of eager steps, of compiled ones, and of both in turns through a file; one compilation for all rows."""
    model = small_model("hybrid", dtype=torch.float32)
    check_by_turns(model, "compile")
    torch._dynamo.config.error_on_recompile = True
    more = [[1, 2, 3], [7, 8, 9, 1, 2], [4]]
    found = generate(model, more, max_new_tokens=90, engine="compile")
    assert_same(found.tokens, generate(model, more, max_new_tokens=90).tokens)


def exports() -> None:
    """Steps that were compiled ahead of time write the same tokens, and refuse other weights."""
    for family in ("hybrid", "rmt"):
        model = small_model(family, dtype=torch.float32)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "steps"
            export_steps(model, out)
            for prompt in ([[1, 2, 3]], [[1, 2, 3], [4, 5]], [[1], [2], [3], [4]]):
                expected = generate(model, prompt, max_new_tokens=90)
                found = generate(model, prompt, max_new_tokens=90, engine=out)
                assert_same(found.tokens, expected.tokens)
            steps = make_steps(model, out)
            with torch.no_grad():
                next(model.parameters()).add_(1)
            with pytest.raises(MismatchError, match="must have the weights that were exported"):
                steps.begin()
            with pytest.raises(MismatchError, match="must be of these weights"):
                generate(model, [[1, 2, 3]], max_new_tokens=2, engine=out)


def main() -> None:
    backend, *families = sys.argv[1:]
    torch.manual_seed(0)
    for family in families:
        check_engine(small_model(family), family, backend=backend, steps=7)
    if backend == "inductor":
        goes_on_across_engines()
    if backend == "export":
        exports()


if __name__ == "__main__":
    main()
