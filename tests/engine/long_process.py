"""Ten thousand tokens by an engine and by eager steps, without the shape hook: give ``compile``, ``onnx``, ``aoti``, or
``turns`` for all of these, which hand a state on through files.
"""

import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from laws.families import random_tokens, small_model
from retentive import load_state, save_state
from retentive.engine.choice import make_steps
from retentive.engine.packaged import export_steps
from retentive.models.base import DecoderModel
from retentive.state import ModelState, named_tensors

FAMILIES = ("retnet", "hybrid", "rmt")
TOKENS, TURN = 10_000, 500
TOLERANCE = 1e-4


@torch.inference_mode()
def largest_difference(model: DecoderModel, engines: Sequence[str | Path], folder: Path) -> float:
    """Of logits and of states, over that of 1 or of the largest logit."""
    state = model(random_tokens(1, 3)).state
    eager = make_steps(model, "eager")
    eager.begin()
    expected_state, worst = eager.own(state), 0.0
    for turn, engine in zip(range(TOKENS // TURN), cycle(engines), strict=False):
        steps = make_steps(model, engine)
        steps.begin()
        mine = steps.own(state)
        for column in random_tokens(1, TURN, seed=turn)[0]:
            expected, expected_state = eager.step(column[None], expected_state, {})
            found, mine = steps.step(column[None], mine, {})
            worst = max(worst, _difference(found, expected))
        save_state(steps.value(mine), folder / "state", model)
        loaded = load_state(folder / "state", model)
        assert isinstance(loaded, ModelState)
        state = loaded
        for name, tensor in named_tensors(eager.value(expected_state)).items():
            if tensor.is_floating_point():
                worst = max(worst, _difference(named_tensors(state)[name], tensor))
            else:
                assert torch.equal(named_tensors(state)[name], tensor), name
    return worst


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    if not expected.numel():
        return 0.0
    return float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))


def main() -> None:
    for family in FAMILIES:
        model = small_model(family, dtype=torch.float32).eval()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "steps"
            if {"aoti", "turns"} & set(sys.argv):
                export_steps(model, out)
            for name in sys.argv[1:]:
                engines = ("compile", "onnx", out, "eager") if name == "turns" else (out if name == "aoti" else name,)
                worst = largest_difference(model, engines, Path(folder))
                print(f"{family}, {name}: {worst:.1e}", flush=True)
                assert worst < TOLERANCE


if __name__ == "__main__":
    main()
