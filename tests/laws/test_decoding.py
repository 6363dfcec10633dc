"""Generation equals the full forward step by step, and goes on from anywhere."""

import pytest
import torch

from laws.decoding_by_hand import lists, one_forward
from laws.families import case_name, cases, small_model
from retentive.generation import Sampling, generate
from retentive.state import named_tensors

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
DRAWN = Sampling(temperature=1.3, top_k=15, top_p=0.9, seed=6)
EVERY_SAMPLING = pytest.mark.parametrize("sampling", [Sampling(), DRAWN], ids=["greedy", "drawn"])
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11, 3]]


@EVERY_CASE
@EVERY_SAMPLING
def test_rows_of_any_length_equal_the_full_forward_of_each_alone(family: str, changes: dict, sampling: Sampling):
    model = small_model(family, **changes)
    result = generate(model, PROMPTS, max_new_tokens=12, sampling=sampling)
    for row, (prompt, said) in enumerate(zip(PROMPTS, lists(result.tokens), strict=True)):
        assert len(said) == 12
        assert said == one_forward(model, prompt, said, sampling, row)
    assert result.stopped == (False, False, False)


@EVERY_CASE
@pytest.mark.parametrize("first", [1, 7])
def test_going_on_equals_an_uninterrupted_run(family: str, changes: dict, first: int):
    model = small_model(family, **changes)
    whole = generate(model, PROMPTS, max_new_tokens=12, sampling=DRAWN)
    begun = generate(model, PROMPTS, max_new_tokens=first, sampling=DRAWN)
    ended = generate(model, state=begun.state, max_new_tokens=12 - first, sampling=DRAWN)
    joined = [a + b for a, b in zip(lists(begun.tokens), lists(ended.tokens), strict=True)]
    assert joined == lists(whole.tokens)
    for name, tensor in named_tensors(whole.state).items():
        assert torch.equal(named_tensors(ended.state)[name], tensor), name
