"""A text that begins like another gives what it gives when it is read whole, over every family and option."""

import pytest
import torch

from laws.families import ALTERNATIVES, case_name, cases, random_tokens, small_model
from retentive.generation import PrefixCache, Request, RequestBatch, Sampling, generate
from retentive.generation.prefixes import PrefixReader
from retentive.models.registry import family_names
from retentive.state import named_tensors

DRAWN = Sampling(temperature=1.3, top_k=15, top_p=0.9, seed=6)
DOCUMENT = random_tokens(1, 11)[0].tolist()
ENDS = [[1, 2, 3], [4], [5, 6, 7, 8], [1, 2, 3]]
TEXTS = [*([*DOCUMENT, *end] for end in ENDS), [*DOCUMENT[:6], 9]]
OPTIONS = [(family, changes) for family in family_names() for changes in ALTERNATIVES[family].values()]


@pytest.mark.parametrize(("family", "changes"), [*cases(), *OPTIONS], ids=case_name)
def test_the_state_of_a_hit_is_that_of_a_miss(family: str, changes: dict):
    model, cache = small_model(family, **changes), PrefixCache(least_tokens=1)
    if not model.predicts_next_token:
        return
    reader = PrefixReader(model, cache)
    for text in TEXTS:
        found = named_tensors(reader.states_after([text]))
        with torch.no_grad():
            expected = named_tensors(model(torch.tensor([text])).state)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10)
    assert (cache.hits, cache.misses) == (2, 3)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_the_tokens_of_a_hit_are_those_of_a_miss(family: str, changes: dict):
    model, cache = small_model(family, **changes), PrefixCache(least_tokens=1)
    alone = [generate(model, text, max_new_tokens=3, sampling=DRAWN).tokens[0].tolist() for text in TEXTS[:4]]
    batch = RequestBatch(model, prefix_cache=cache, tokens_per_step=3)
    numbers = [batch.admit(Request(prompt=text, max_new_tokens=3, sampling=DRAWN)) for text in TEXTS[:2]]
    said: dict[int, list[int | None]] = {number: [] for number in numbers}
    while batch.is_busy:
        for step in batch.step():
            said[step.number].append(step.token)
    assert list(said.values()) == alone[:2]
    cached = [
        generate(model, text, max_new_tokens=3, sampling=DRAWN, prefix_cache=cache).tokens[0].tolist()
        for text in TEXTS[:4]
    ]
    assert cached == alone
    assert cache.hits >= 3


@pytest.mark.parametrize("family", family_names())
def test_models_that_differ_in_one_option_never_share_a_state(family: str):
    plain, cache = small_model(family), PrefixCache(least_tokens=1)
    PrefixReader(plain, cache).states_after([DOCUMENT])
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    for option, changes in ALTERNATIVES[family].items():
        other = small_model(family, **changes)
        if {name: tensor.shape for name, tensor in other.state_dict().items()} == shapes:
            other.load_state_dict(plain.state_dict())
        assert cache.find(other, DOCUMENT).length == 0, option
    assert cache.find(plain, DOCUMENT).length == len(DOCUMENT)
