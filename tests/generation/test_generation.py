"""Generation over every family: equal to the full forward, row by row, and going on from anywhere."""

import gc
from pathlib import Path

import pytest
import torch

from laws.decoding_by_hand import full_forward, lists, one_forward
from laws.families import VOCAB, case_name, cases, random_tokens, small_model
from retentive.checkpoints import load_state, save_state
from retentive.generation import GenerationState, Sampling, generate, stream
from retentive.models.base import DecoderModel
from retentive.models.registry import family_names
from retentive.state import named_tensors

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
EVERY_FAMILY = pytest.mark.parametrize("family", family_names())
DRAWN = Sampling(temperature=1.3, top_k=15, top_p=0.9, seed=6)
EVERY_SAMPLING = pytest.mark.parametrize("sampling", [Sampling(), DRAWN], ids=["greedy", "drawn"])
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11, 3]]


@EVERY_FAMILY
def test_a_stream_gives_the_same_tokens_one_by_one(family: str):
    model = small_model(family)
    tokens = generate(model, PROMPTS, max_new_tokens=5).tokens
    steps = list(stream(model, PROMPTS, max_new_tokens=5))
    assert [list(row) for row in zip(*steps, strict=True)] == lists(tokens)


@EVERY_FAMILY
@EVERY_SAMPLING
def test_a_stream_can_be_left_at_any_token(family: str, sampling: Sampling):
    model = small_model(family)
    whole = lists(generate(model, PROMPTS, max_new_tokens=9, sampling=sampling).tokens)
    begun = stream(model, PROMPTS, max_new_tokens=9, sampling=sampling)
    for count in range(1, 9):
        next(begun)
        ended = generate(model, state=begun.state, max_new_tokens=9 - count, sampling=sampling)
        assert lists(ended.tokens) == [row[count:] for row in whole]


@EVERY_CASE
def test_a_new_prompt_after_a_generation_continues_the_whole_text(family: str, changes: dict):
    model = small_model(family, **changes)
    begun = generate(model, PROMPTS, max_new_tokens=4)
    more = [[2, 3], [], [5]]
    found = generate(model, more, state=begun.state, max_new_tokens=5).tokens
    texts = [a + b + c for a, b, c in zip(PROMPTS, lists(begun.tokens), more, strict=True)]
    assert [len(said) for said in found] == [5, 5, 5]
    assert lists(found) == [one_forward(model, *each, Sampling()) for each in zip(texts, lists(found), strict=True)]


@EVERY_CASE
def test_a_prompt_after_a_models_state_continues_what_it_has_read(family: str, changes: dict):
    model = small_model(family, **changes)
    read, prompt = random_tokens(2, 9), random_tokens(2, 3, seed=1)
    found = generate(model, prompt, state=model(read).state, max_new_tokens=5)
    texts = torch.cat((read, prompt), 1).tolist()
    said = lists(found.tokens)
    assert [len(each) for each in said] == [5, 5]
    assert said == [one_forward(model, *each, Sampling()) for each in zip(texts, said, strict=True)]


@EVERY_CASE
def test_the_state_has_read_all_but_the_unread_token(family: str, changes: dict):
    model = small_model(family, **changes)
    result = generate(model, PROMPTS[:1], max_new_tokens=6)
    text = PROMPTS[0] + result.tokens[0].tolist()
    assert result.state.unread.tolist() == text[-1:]
    expected = model(torch.tensor([text[:-1]])).state
    for name, tensor in named_tensors(expected).items():
        torch.testing.assert_close(named_tensors(result.state.model)[name], tensor, rtol=0, atol=1e-11)


@EVERY_CASE
def test_rows_of_the_state_can_be_dropped_reordered_and_repeated(family: str, changes: dict):
    model = small_model(family, **changes)
    begun = generate(model, PROMPTS, max_new_tokens=4)
    whole = lists(generate(model, state=begun.state, max_new_tokens=5).tokens)
    some = generate(model, state=begun.state.select(torch.tensor([2, 0, 0])), max_new_tokens=5)
    assert lists(some.tokens) == [whole[2], whole[0], whole[0]]


def batch_sizes(model: DecoderModel, action) -> list[int]:
    """Rows in each call of the model during an action."""
    seen: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
    action()
    hook.remove()
    return seen


@pytest.mark.parametrize(
    ("family", "changes", "sampling"),
    [(*case, Sampling()) for case in cases()] + [(family, {}, DRAWN) for family in family_names()],
    ids=case_name,
)
def test_rows_end_at_a_stop_token_and_leave_the_work(family: str, changes: dict, sampling: Sampling):
    model = small_model(family, **changes)
    free = lists(generate(model, PROMPTS, max_new_tokens=12, sampling=sampling).tokens)
    stops = {free[0][7], free[2][2]}
    expected = []
    for row in free:
        end = next((index for index, token in enumerate(row) if token in stops), None)
        expected.append(row if end is None else row[: end + 1])
    results = []
    sizes = batch_sizes(
        model,
        lambda: results.append(generate(model, PROMPTS, max_new_tokens=12, sampling=sampling, stop_tokens=stops)),
    )
    result = results[0]
    assert lists(result.tokens) == expected
    assert result.stopped == tuple(row[-1] in stops for row in expected)
    lengths = [len(row) for row in expected]
    assert len(set(lengths)) > 1, "rows must end at different times for this test to show anything"
    assert sizes == [sum(length > step for length in lengths) for step in range(max(lengths))]

    steps = list(stream(model, PROMPTS, max_new_tokens=12, sampling=sampling, stop_tokens=stops))
    for row, tokens in enumerate(expected):
        assert [step[row] for step in steps] == tokens + [None] * (len(steps) - len(tokens))

    # Each row of the state is where its row ended, as if it had been alone.
    assert result.state.unread.tolist() == [row[-1] for row in expected]
    ended = lists(generate(model, state=result.state, max_new_tokens=4).tokens)
    texts = [prompt + row for prompt, row in zip(PROMPTS, expected, strict=True)]
    assert [len(said) for said in ended] == [4, 4, 4]
    assert ended == [one_forward(model, *each, Sampling()) for each in zip(texts, ended, strict=True)]


@EVERY_FAMILY
def test_stopping_at_the_first_token_ends_at_once(family: str):
    model = small_model(family)
    first = int(generate(model, [1, 2], max_new_tokens=1).tokens[0])
    result = generate(model, [1, 2], max_new_tokens=50, stop_tokens=[first])
    assert lists(result.tokens) == [[first]]
    assert result.stopped == (True,)


@EVERY_FAMILY
def test_a_stop_token_at_the_very_end_counts(family: str):
    model = small_model(family)
    tokens = generate(model, [1, 2], max_new_tokens=1).tokens[0].tolist()
    assert generate(model, [1, 2], max_new_tokens=1, stop_tokens=tokens).stopped == (True,)


@EVERY_FAMILY
def test_a_row_does_not_depend_on_its_neighbours(family: str):
    model = small_model(family)
    sampling = Sampling(temperature=1.0, seed=3)
    one = generate(model, [[1, 2], [3]], max_new_tokens=8, sampling=sampling).tokens[1]
    other = generate(model, [[4, 5, 6, 7, 8], [3], [9]], max_new_tokens=8, sampling=sampling).tokens[1]
    assert one.tolist() == other.tolist()


@EVERY_FAMILY
def test_seeds_and_rows_draw_different_tokens(family: str):
    model = small_model(family)
    first, second = (
        generate(model, [[1], [1]], max_new_tokens=20, sampling=Sampling(temperature=2.0, seed=seed)).tokens
        for seed in (0, 1)
    )
    assert len({tuple(row) for row in lists([*first, *second])}) == 4


@EVERY_FAMILY
def test_without_a_seed_torchs_own_decides(family: str):
    model = small_model(family)
    sampling = Sampling(temperature=2.0)
    torch.manual_seed(0)
    first = generate(model, [1], max_new_tokens=20, sampling=sampling).tokens[0].tolist()
    other = generate(model, [1], max_new_tokens=20, sampling=sampling).tokens[0].tolist()
    torch.manual_seed(0)
    assert generate(model, [1], max_new_tokens=20, sampling=sampling).tokens[0].tolist() == first != other


@EVERY_FAMILY
@pytest.mark.parametrize("ragged", [False, True])
def test_a_long_prompt_is_read_in_pieces(family: str, ragged: bool):
    model = small_model(family)
    rows, longest = 32, 300
    prompts = [random_tokens(1, longest - (5 * row if ragged else 0), seed=row)[0] for row in range(rows)]
    widths: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))
    found = generate(model, prompts, max_new_tokens=2).tokens
    hook.remove()
    assert widths == [128, 128, 44, 1], "4096 tokens a call"
    for row in (0, 1, 31):
        assert found[row].tolist() == full_forward(model, prompts[row].tolist(), 2, Sampling())


def test_more_tokens_and_numbers_than_are_made_at_a_time():
    model = small_model("retnet")
    whole = generate(model, [[1], [2]], max_new_tokens=270, sampling=DRAWN).tokens
    steps = list(stream(model, [[1], [2]], max_new_tokens=270, sampling=DRAWN))
    assert lists(whole) == [list(row) for row in zip(*steps, strict=True)]
    for count in (63, 64, 65, 255, 256, 257):  # 64 numbers and 256 tokens are kept together
        text = [1, *whole[0].tolist()]
        assert full_forward(model, text[:count], 1, DRAWN) == text[count : count + 1]


@EVERY_FAMILY
def test_training_mode_is_left_for_each_step_and_put_back(family: str):
    model = small_model(family)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert not torch.equal(model.train()(random_tokens(1, 5)).logits, model.eval()(random_tokens(1, 5)).logits)
    expected = lists(generate(model, [1, 2], max_new_tokens=8).tokens)
    model.train()
    frozen = next(iter(model.decoder.children()))
    frozen.eval()
    modes = [module.training for module in model.modules()]
    found = stream(model, [1, 2], max_new_tokens=8)
    for token in expected[0]:
        assert next(found) == (token,)
        assert [module.training for module in model.modules()] == modes
    generate(model, [1, 2], max_new_tokens=2)
    assert [module.training for module in model.modules()] == modes


@EVERY_FAMILY
def test_gradients_are_neither_made_nor_switched_off_for_the_caller(family: str):
    model = small_model(family)
    for _ in stream(model, [1, 2], max_new_tokens=3):
        assert torch.is_grad_enabled()
    state = generate(model, [1, 2], max_new_tokens=3).state
    assert not any(tensor.requires_grad for tensor in named_tensors(state).values())
    tokens = random_tokens(1, 4)
    loss = model(tokens, state.model, labels=tokens).loss
    loss.backward()  # a state made in inference mode could not be used here
    assert model.decoder.embedding.tokens.weight.grad is not None


@EVERY_FAMILY
def test_the_given_state_stays_as_it_was(family: str):
    model = small_model(family)
    state = generate(model, PROMPTS, max_new_tokens=3).state
    before = {name: tensor.clone() for name, tensor in named_tensors(state).items()}
    generate(model, state=state, max_new_tokens=5, stop_tokens=range(0, VOCAB, 3))
    for name, tensor in named_tensors(state).items():
        assert torch.equal(tensor, before[name]), name


@EVERY_FAMILY
def test_low_precision_models_generate(family: str):
    model = small_model(family, dtype=torch.bfloat16)
    result = generate(model, PROMPTS, max_new_tokens=4, sampling=Sampling(temperature=1.0, top_p=0.9, seed=0))
    assert [len(row) for row in result.tokens] == [4, 4, 4]
    assert isinstance(result.state, GenerationState)


@EVERY_CASE
def test_no_step_leaves_its_state_to_the_garbage_collector(family: str, changes: dict):
    running = stream(small_model(family, **changes), PROMPTS, max_new_tokens=12)
    next(running)
    gc.freeze()  # what was there before is not looked through: that would take longer than the steps
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(8):
            next(running)
        gc.collect()
        left = [thing for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()
    assert left == []


def test_an_encoder_writes_nothing():
    encoder = small_model("rmt", bidirectional=True)
    message = r"model must predict the next token, but this rmt is an encoder, .* bidirectional=False, or ask this one"
    for begin in (generate, stream):
        with pytest.raises(ValueError, match=message):
            begin(encoder, PROMPTS, max_new_tokens=3)


PENALISED = Sampling(
    temperature=1.0, min_p=0.05, repetition_penalty=1.3, presence_penalty=0.7, frequency_penalty=0.4, seed=2
)


@pytest.mark.parametrize("sampling", [PENALISED, Sampling(repetition_penalty=1.5)], ids=["drawn", "greedy"])
def test_penalties_go_on_with_the_state(sampling: Sampling, tmp_path: Path):
    model = small_model("retnet")
    whole = lists(generate(model, PROMPTS, max_new_tokens=12, sampling=sampling).tokens)
    assert whole == [full_forward(model, prompt, 12, sampling, row) for row, prompt in enumerate(PROMPTS)]
    assert whole != lists(generate(model, PROMPTS, max_new_tokens=12, sampling=DRAWN).tokens)
    state = generate(model, PROMPTS, max_new_tokens=5, sampling=sampling).state
    save_state(state, tmp_path / "state.safetensors", model)
    loaded = load_state(tmp_path / "state.safetensors", model)
    ended = generate(model, state=loaded, max_new_tokens=7, sampling=sampling)
    assert lists(ended.tokens) == [row[5:] for row in whole]
    more = generate(model, [[2, 3], [], [5]], state=state, max_new_tokens=4, sampling=sampling)
    assert more.state.counts is not None
    said = [row[:5] + new for row, new in zip(whole, lists(more.tokens), strict=True)]
    assert more.state.counts.said.tolist() == [[row.count(token) for token in range(VOCAB)] for row in said]
