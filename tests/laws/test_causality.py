"""The future cannot reach the past, and rows cannot reach each other."""

import pytest
import torch

from laws.families import VOCAB, beside, case_name, cases, random_tokens, small_model


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
@pytest.mark.parametrize("edited", [0, 3, 4, 11, 18])
def test_an_edit_changes_nothing_before_it(family: str, changes: dict, edited: int):
    model = small_model(family, dtype=torch.float32, **changes)
    tokens = random_tokens(2, 19)
    other = tokens.clone()
    other[:, edited] = (other[:, edited] + 1) % VOCAB
    before, after = model(tokens).logits, model(other).logits
    assert torch.equal(before[:, :edited], after[:, :edited])
    assert not torch.equal(before[:, edited], after[:, edited])


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_row_depends_on_itself_alone(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens = random_tokens(3, 13)
    together = model(tokens).logits
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], model(tokens[row : row + 1]).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_every_parameter_is_used(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens = random_tokens(2, 13)
    model(tokens, labels=random_tokens(2, 13, seed=1), **beside(model, tokens)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
