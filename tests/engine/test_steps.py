"""What an engine steps over, a view of a model with buffers and places of its own, is the model's call."""

from pathlib import Path

import pytest
import torch
from torch import nn

from laws.families import ALTERNATIVES, VARIANTS, case_name, random_tokens, small_model
from retentive import generate
from retentive.checkpoints import load_state, save_state
from retentive.engine.eager import EagerSteps
from retentive.engine.growing.context import EngineContext
from retentive.engine.lookup import ModelView, is_observed
from retentive.errors import MismatchError
from retentive.models.base import DecoderModel
from retentive.state import ModelState, map_tensors, named_tensors

PLAIN = [
    (family, changes)
    for family in ("retnet", "transformer", "hybrid", "rmt")
    for changes in ({}, *VARIANTS[family], *ALTERNATIVES[family].values())
    if "bidirectional" not in changes  # an encoder is not asked for the next token
]


def stepping(model: DecoderModel):
    """A step over a view, in an engine's context."""
    view, context = ModelView(model), EngineContext()
    return lambda tokens, state: view.model.step(tokens, state, context)


def own(state: ModelState) -> ModelState:
    return map_tensors(state, torch.Tensor.clone)


def small(**changes: object) -> DecoderModel:
    return small_model("retnet", **changes).eval()


def check_steps(model: DecoderModel, state: ModelState, steps: int, tolerance: float = 1e-12) -> None:
    """Steps after ``state`` give the logits and the states that calls give."""
    step = stepping(model)
    rows, mine = state.batch_size, own(state)
    for seed in range(steps):
        tokens = random_tokens(rows, 1, seed=seed)
        output = model(tokens, state)
        state = output.state
        logits, mine = step(tokens[:, 0], mine)
        torch.testing.assert_close(logits, output.logits[:, 0], rtol=0, atol=1e-12)
        assert named_tensors(mine).keys() == named_tensors(state).keys()
        for name, tensor in named_tensors(state).items():
            torch.testing.assert_close(named_tensors(mine)[name], tensor, rtol=tolerance, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize(("family", "changes"), PLAIN, ids=case_name)
def test_it_computes_what_a_call_computes(family: str, changes: dict, rows: int):
    model = small_model(family, **changes).eval()
    # Over two borders of segments; what an associative memory finds is divided by how little of it is there.
    steps, tolerance = (12, 1e-10) if family == "rmt" else (3, 1e-12)
    check_steps(model, model(random_tokens(rows, 6)).state, steps, tolerance)


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize("padded", [False, True])
def test_a_cache_outgrows_its_room(window: int | None, padded: bool):
    model = small_model("transformer", window=window).eval()
    mask = torch.arange(6) >= torch.tensor([[0], [4], [1]]) if padded else None
    check_steps(model, model(random_tokens(3, 6), mask=mask).state, 70)


@torch.no_grad()
def test_a_state_of_an_earlier_step_still_goes_on():
    model = small_model("transformer").eval()
    step, tokens = stepping(model), random_tokens(2, 3)[..., None].unbind(1)
    first = step(tokens[0][:, 0], model(random_tokens(2, 4)).state)[1]
    before = own(first)
    expected = step(tokens[1][:, 0], first)[0]
    step(tokens[2][:, 0], first)
    for name, tensor in named_tensors(first).items():
        assert torch.equal(tensor, named_tensors(before)[name]), name
    assert torch.equal(step(tokens[1][:, 0], first)[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("way", ["another parameter", "in place", "other data"])
def test_weights_that_change_between_two_tokens_are_the_ones_that_are_used(way: str):
    model = small()
    steps = EagerSteps(model)
    steps.begin()
    state, tokens = model(random_tokens(2, 6)).state, random_tokens(2, 1)[:, 0]
    steps.step(tokens, steps.own(state), {})
    for part in (model.decoder.blocks[0].mixer_norm, model.decoder.blocks[1].feed_forward.input_proj):
        if way == "in place":
            part.weight.mul_(3)
        elif way == "other data":
            part.weight.data = 3 * part.weight
        else:
            part.weight = nn.Parameter(3 * part.weight)
    found = steps.step(tokens, steps.own(state), {})[0]
    torch.testing.assert_close(found, model(tokens[:, None], state).logits[:, 0], rtol=0, atol=1e-12)


def test_a_hook_is_called_for_every_token():
    model, seen = small(), []
    plain = generate(model, [1, 2], max_new_tokens=4)
    model.decoder.blocks[1].mixer.register_forward_hook(lambda *_: seen.append(1))
    assert is_observed(model)
    assert generate(model, [1, 2], max_new_tokens=4).tokens[0].tolist() == plain.tokens[0].tolist()
    assert len(seen) == 4


def test_a_compiled_model_is_called():
    model = small()
    model.compile(backend="eager")
    assert is_observed(model)


class Adapter(nn.Module):
    """What a low-rank adapter looks like from outside."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.weight = base.weight
        self.down = nn.Linear(base.in_features, 2, dtype=torch.float64)
        self.up = nn.Linear(2, base.out_features, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


@torch.no_grad()
@pytest.mark.parametrize("family", ["retnet", "transformer"])
@pytest.mark.parametrize("place", ["mixer.input_proj", "mixer.output_proj", "feed_forward.input_proj"])
def test_an_adapter_in_place_of_a_projection_counts(family: str, place: str):
    model = small_model(family).eval()
    block, tokens = model.decoder.blocks[0], random_tokens(2, 1)
    state = model(random_tokens(2, 6)).state
    layer, name = place.split(".")
    part = getattr(block, layer)
    setattr(part, name, Adapter(getattr(part, name)))
    step = stepping(model)
    torch.testing.assert_close(step(tokens[:, 0], own(state))[0], model(tokens, state).logits[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["retnet", "transformer"])
def test_generating_leaves_states_that_were_handed_out_alone(family: str):
    model = small_model(family).eval()
    first = generate(model, [[1, 2, 3], [4, 5, 6]], max_new_tokens=3)
    before = {name: tensor.clone() for name, tensor in named_tensors(first.state).items()}
    generate(model, state=first.state, max_new_tokens=5)
    for name, tensor in named_tensors(first.state).items():
        assert torch.equal(tensor, before[name]), name


def test_going_on_from_a_state_of_another_model_is_refused():
    state = generate(small(num_layers=3), [1, 2], max_new_tokens=2).state
    with pytest.raises(MismatchError, match="but its layers: 3, the model's: 2"):
        generate(small(), state=state, max_new_tokens=2)


@pytest.mark.parametrize("family", ["retnet", "transformer"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_state_after_bound_steps_goes_into_a_file(family: str, rows: int, tmp_path: Path):
    model = small_model(family).eval()
    state = generate(model, [[1, 2]] * rows, max_new_tokens=5).state
    for name, tensor in named_tensors(state).items():
        assert tensor.stride(-1) == 1, name
    save_state(state, tmp_path / "state", model)
    expected = generate(model, state=state, max_new_tokens=3).tokens
    found = generate(model, state=load_state(tmp_path / "state", model), max_new_tokens=3).tokens
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]


@torch.inference_mode()
@pytest.mark.parametrize("write", ["copy", "replace", "cast"])
def test_a_run_of_steps_begins_with_the_weights_that_are_there(write: str):
    """Writes to ``data`` are not counted by torch; an engine's norms and columns are made of weights."""
    with torch.inference_mode(False):
        model = small()
    steps, tokens = EagerSteps(model), torch.tensor([1])
    state = model(random_tokens(1, 3)).state
    steps.begin()
    steps.step(tokens, steps.own(state), {})
    for parameter in model.parameters():
        new = torch.rand_like(parameter)
        if write == "copy":
            parameter.data.copy_(new)
        elif write == "replace":
            parameter.data = new
    if write == "cast":
        model.float()  # replaces the data of each parameter
        state = model(random_tokens(1, 3)).state
    steps.begin()
    found, _ = steps.step(tokens, steps.own(state), {})
    torch.testing.assert_close(found, model(tokens[:, None], state).logits[:, 0])
