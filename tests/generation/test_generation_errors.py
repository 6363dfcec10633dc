"""What cannot be generated is refused when it is asked for, with the name, the rule and the cure."""

import pytest
import torch

from laws.families import VOCAB, small_model
from retentive.errors import DivergedError
from retentive.generation import Sampling, generate, stream
from retentive.models.registry import family_names

EVERY_FAMILY = pytest.mark.parametrize("family", family_names())


@EVERY_FAMILY
@pytest.mark.parametrize("call", [generate, stream], ids=["generate", "stream"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"prompt": []},
            "prompt must hold at least one token for each row, but there is none; begin with .* end_of_text",
        ),
        ({}, "prompt must hold at least one token for each row, but there is none"),
        ({"prompt": [[1], []]}, "prompt must hold at least one token for each row, but row 1 is empty"),
        ({"prompt": torch.zeros(2, 0, dtype=torch.long)}, "but row 0 is empty"),
        (
            {"prompt": [VOCAB]},
            f"every token id must be from 0 to vocab_size - 1 = {VOCAB - 1}, but 1 of row 0 are outside",
        ),
        ({"prompt": [1], "max_new_tokens": 0}, "max_new_tokens must be at least 1, but is 0"),
        (
            {"prompt": [1], "stop_tokens": [VOCAB]},
            "every stop token must be from 0 to .* but 23 is not; is it of another",
        ),
    ],
)
def test_arguments_are_checked_before_anything_runs(family: str, call, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        call(small_model(family), **{"max_new_tokens": 3, **arguments})


@pytest.mark.parametrize("family", [family for family in family_names() if family != "retro"])
def test_a_retriever_is_refused_by_families_that_read_no_neighbours(family: str):
    with pytest.raises(ValueError, match=f"retriever must be None for a {family}, which reads no neighbours"):
        generate(small_model(family), [1], max_new_tokens=1, retriever=lambda chunks: chunks)


@EVERY_FAMILY
def test_a_state_needs_a_row_for_each_prompt(family: str):
    model = small_model(family)
    state = generate(model, [[1], [2]], max_new_tokens=2).state
    for given in (state, state.model):
        with pytest.raises(ValueError, match=r"one row for each prompt, 3, but has 2; state.select\(rows\) keeps or"):
            generate(model, [[1], [2], [3]], state=given, max_new_tokens=1)


@EVERY_FAMILY
def test_a_models_state_alone_does_not_say_what_comes_next(family: str):
    model = small_model(family)
    with pytest.raises(ValueError, match="or pass the state of an earlier generation, which needs no prompt"):
        generate(model, state=model(torch.tensor([[1, 2]])).state, max_new_tokens=1)


@EVERY_FAMILY
def test_a_stream_has_no_state_before_its_first_token(family: str):
    with pytest.raises(ValueError, match="there is no state before the first token"):
        _ = stream(small_model(family), [1], max_new_tokens=1).state


@EVERY_FAMILY
def test_broken_weights_are_noticed(family: str):
    model = small_model(family)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="logits after the prompt must be finite, but some are NaN or infinite"):
        generate(model, [1], max_new_tokens=1)


@EVERY_FAMILY
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_k=3, seed=0)], ids=["greedy", "drawn"])
def test_weights_that_break_during_a_text_are_noticed(family: str, sampling: Sampling):
    model = small_model(family)
    tokens = stream(model, [1, 2], max_new_tokens=9, sampling=sampling)
    next(tokens)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="the model's logits must be finite, but some are NaN or infinite"):
        list(tokens)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("transformer", {"positions": "learned", "max_positions": 10}), ("retnet", {"max_positions": 10})],
)
def test_text_beyond_the_table_of_positions_is_refused_before_it_begins(family: str, changes: dict):
    model = small_model(family, **changes)
    prompt = [1, 2, 3, 4]
    result = generate(model, prompt, max_new_tokens=6)  # reads positions 0 to 8; the last token is not read
    assert generate(model, prompt, max_new_tokens=7).tokens[0].tolist()[:6] == result.tokens[0].tolist()
    with pytest.raises(ValueError, match=r"must fit into max_positions = 10 tokens, but together .* they need 11"):
        generate(model, prompt, max_new_tokens=8)
    generate(model, state=result.state, max_new_tokens=1)
    with pytest.raises(ValueError, match=r"must fit into max_positions = 10 tokens, but together .* they need 11"):
        generate(model, state=result.state, max_new_tokens=2)
