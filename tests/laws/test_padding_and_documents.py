"""Padding changes no real token; documents packed into one row do not see each other."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.families import case_name, cases, kept_model, random_tokens, small_model
from retentive.models.base import DecoderModel
from seeds import seeded


def over_families_and_seeds(test: Callable[..., None]) -> Callable[..., None]:
    seeded = settings(deadline=None, max_examples=10)(given(seed=st.integers(0, 10_000))(test))
    return pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)(seeded)


@over_families_and_seeds
def test_padding_anywhere_changes_no_real_token(family: str, changes: dict, seed: int):
    model = kept_model(family, **changes)
    generator = seeded(seed)
    tokens = random_tokens(3, 17, seed)
    mask = torch.rand(3, 17, generator=generator) > 0.4
    mask[:, 0] |= ~mask.any(1)
    padded = model(tokens, mask=mask)
    following = model(tokens[:, :2], padded.state)
    for row in range(3):
        alone = model(tokens[row, mask[row]][None])
        torch.testing.assert_close(padded.logits[row, mask[row]], alone.logits[0], rtol=0, atol=1e-11)
        then = model(tokens[row : row + 1, :2], alone.state)
        torch.testing.assert_close(following.logits[row], then.logits[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_what_stands_in_the_padding_does_not_matter(family: str, changes: dict):
    model = small_model(family, dtype=torch.float32, **changes)
    tokens = random_tokens(2, 9)
    mask = torch.tensor([[False] * 3 + [True] * 6, [True] * 9])
    other = tokens.clone()
    other[0, :3] = 1
    labels = tokens.where(mask, -100)
    first, second = model(tokens, labels=labels, mask=mask), model(other, labels=labels, mask=mask)
    assert torch.equal(first.logits[mask], second.logits[mask])
    assert torch.equal(first.loss, second.loss)


@over_families_and_seeds
def test_packed_documents_equal_each_alone(family: str, changes: dict, seed: int):
    model = kept_model(family, **changes)
    before = model(random_tokens(1, 4, seed + 1)).state
    generator = seeded(seed)
    tokens = random_tokens(1, 21, seed)
    starts = torch.rand(1, 21, generator=generator) > 0.8
    packed = model(tokens, before, starts=starts)
    bounds = [0, *(int(i) for i in starts[0].nonzero()), 21]
    bounds = sorted(set(bounds))
    expected, last = [], before
    for begin, end in itertools.pairwise(bounds):
        carried = None if starts[0, begin] else last
        output = model(tokens[:, begin:end], carried)
        expected.append(output.logits)
        last = output.state
    torch.testing.assert_close(packed.logits, torch.cat(expected, 1), rtol=0, atol=1e-11)
    more = random_tokens(1, 3, seed + 2)
    torch.testing.assert_close(model(more, packed.state).logits, model(more, last).logits, rtol=0, atol=1e-11)


def gradients(model: DecoderModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_packed_documents_give_the_gradients_of_each_alone(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens, labels = random_tokens(1, 16), random_tokens(1, 16, seed=1)
    starts = torch.zeros(1, 16, dtype=torch.bool)
    starts[0, [0, 7]] = True
    packed = gradients(model, model(tokens, labels=labels, starts=starts).loss)
    first = model(tokens[:, :7], labels=labels[:, :7]).loss
    second = model(tokens[:, 7:], labels=labels[:, 7:]).loss
    alone = gradients(model, (first * 7 + second * 9) / 16)
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, alone[name], rtol=0, atol=1e-11, msg=name)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_document_that_starts_at_padding_starts(family: str, changes: dict):
    """The start belongs to the next real token of the row, in this call or the next one."""
    model = small_model(family, **changes)
    tokens, mask = random_tokens(3, 12), torch.ones(3, 12, dtype=torch.bool)
    mask[0, 4:6] = mask[1, 7] = mask[2, 10:] = False
    at_padding = torch.zeros(3, 12, dtype=torch.bool)
    at_padding[0, 4] = at_padding[1, 7] = at_padding[2, 10] = True
    at_tokens = torch.zeros(3, 12, dtype=torch.bool)
    at_tokens[0, 6] = at_tokens[1, 8] = True
    ours, theirs = model(tokens, mask=mask, starts=at_padding), model(tokens, mask=mask, starts=at_tokens)
    torch.testing.assert_close(ours.logits[mask], theirs.logits[mask], rtol=0, atol=1e-11)
    more, first = random_tokens(3, 7, seed=1), torch.zeros(3, 7, dtype=torch.bool)
    first[2, 0] = True
    after, expected = model(more, ours.state), model(more, theirs.state, starts=first)
    torch.testing.assert_close(after.logits, expected.logits, rtol=0, atol=1e-11)
    torch.testing.assert_close(after.logits[2:], model(more[2:]).logits, rtol=0, atol=1e-11)
    assert after.state.position.tolist() == expected.state.position.tolist()
