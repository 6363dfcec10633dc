"""What every carried state can do."""

import dataclasses

import pytest
import torch

from laws.families import case_name, cases, random_tokens, small_model
from retentive.state import named_tensors, with_tensors


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_selected_rows_go_on_as_they_would_have(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(4, 11)).state
    more = random_tokens(4, 3, seed=1)
    expected = model(more, state).logits
    rows = torch.tensor([2, 0, 0])
    torch.testing.assert_close(model(more[rows], state.select(rows)).logits, expected[rows], rtol=0, atol=1e-12)
    keep = torch.tensor([True, False, False, True])
    torch.testing.assert_close(model(more[keep], state.select(keep)).logits, expected[keep], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_detaching_cuts_the_gradient_and_nothing_else(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(2, 6)).state
    cut = state.detach()
    assert any(tensor.requires_grad for tensor in named_tensors(state).values())
    for name, tensor in named_tensors(cut).items():
        assert not tensor.requires_grad
        assert torch.equal(tensor, named_tensors(state)[name])


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_moving_keeps_every_dtype(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(2, 6)).state
    moved = state.to("meta")
    for name, tensor in named_tensors(moved).items():
        assert tensor.device.type == "meta"
        assert tensor.dtype == named_tensors(state)[name].dtype
    assert state.size_in_bytes == moved.size_in_bytes > 0


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_state_is_rebuilt_from_its_tensors(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(2, 6)).state
    rebuilt = with_tensors(model.initial_state(2), named_tensors(state))
    more = random_tokens(2, 3, seed=1)
    assert torch.equal(model(more, rebuilt).logits, model(more, state).logits)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_states_are_frozen(family: str, changes: dict):
    state = small_model(family, **changes).initial_state(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.position = torch.zeros(1)  # type: ignore[misc]
