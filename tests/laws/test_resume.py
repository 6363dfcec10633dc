"""Any split of a sequence into calls gives what one call gives."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.families import beside, case_name, cases, random_tokens, small_model
from retentive.state import named_tensors

TIME = 19


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_stopping_anywhere_changes_nothing(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens = random_tokens(2, TIME)
    whole = model(tokens)
    expected = named_tensors(whole.state)

    @given(cuts=st.sets(st.integers(1, TIME - 1), max_size=5))
    @settings(deadline=None, max_examples=15)
    def stop_at(cuts: set[int]) -> None:
        state, logits = None, []
        for begin, end in itertools.pairwise([0, *sorted(cuts), TIME]):
            output = model(tokens[:, begin:end], state)
            state = output.state
            logits.append(output.logits)
        torch.testing.assert_close(torch.cat(logits, 1), whole.logits, rtol=0, atol=1e-11)
        assert state is not None
        found = named_tensors(state)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-11)

    stop_at()


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_token_by_token_equals_one_call(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens = random_tokens(2, TIME)
    state, logits = None, []
    for column in tokens.T:
        output = model(column[:, None], state)
        state = output.state
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), model(tokens).logits, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_none_is_the_initial_state(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens = random_tokens(3, 6)
    torch.testing.assert_close(model(tokens, model.initial_state(3)).logits, model(tokens).logits, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_call_leaves_the_state_it_was_given_as_it_was(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(2, 7)).state
    before = {name: tensor.clone() for name, tensor in named_tensors(state).items()}
    model(random_tokens(2, 5, seed=1), state)
    model(random_tokens(2, 1, seed=2), state)
    for name, tensor in named_tensors(state).items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_gradients_cross_from_call_to_call(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens, labels = random_tokens(2, 12), random_tokens(2, 12, seed=1)
    model(tokens, labels=labels, **beside(model, tokens)).loss.backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    first = model(tokens[:, :5], labels=labels[:, :5], **beside(model, tokens[:, :5]))
    rest = beside(model, tokens[:, 5:], first.state)
    second = model(tokens[:, 5:], first.state, labels[:, 5:], **rest)
    ((first.loss * 5 + second.loss * 7) / 12).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=0, atol=1e-11, msg=name)
