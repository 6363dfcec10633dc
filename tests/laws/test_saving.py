"""A model and its state go into files and come back bit for bit."""

from pathlib import Path

import pytest
import torch

from laws.equality import assert_equal_states
from laws.families import case_name, cases, random_tokens, small_model
from retentive.checkpoints import GenerationState, load_model, load_state, save_model, save_state

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)


@EVERY_CASE
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_loaded_model_is_the_saved_one(family: str, changes: dict, dtype: torch.dtype, tmp_path: Path):
    model = small_model(family, dtype=dtype, **changes)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert not loaded.training
    expected, found = model.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    tokens = random_tokens(2, 9)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@EVERY_CASE
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("padded", [False, True])
def test_states_come_back_bit_for_bit(family: str, changes: dict, dtype: torch.dtype, padded: bool, tmp_path: Path):
    model = small_model(family, dtype=dtype, **changes)
    tokens = random_tokens(3, 11)
    mask = torch.arange(11) >= torch.tensor([[0], [4], [9]]) if padded else None
    state = model(tokens, mask=mask).state.detach()
    path = tmp_path / "state.safetensors"
    save_state(state, path, model)
    assert_equal_states(load_state(path, model), state)
    going = GenerationState(model=state, unread=torch.tensor([1, 2, 3]))
    save_state(going, path, model)
    assert_equal_states(load_state(path, model), going)
    selected = state.select(torch.tensor([2, 0]))
    save_state(selected, path, model)
    assert_equal_states(load_state(path, model), selected)
