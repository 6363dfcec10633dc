"""Requests come and go, and each gets what `generate` gives it alone."""

import pytest
import torch

from laws.families import case_name, cases, random_tokens, small_model
from retentive.generation import Request, RequestBatch, RequestStep, Sampling, generate
from retentive.models.base import DecoderModel
from retentive.text.byte_tokenizer import ByteTokenizer

DRAWN = Sampling(temperature=1.0, top_k=15, seed=3)
PENALISED = Sampling(temperature=1.0, min_p=0.1, repetition_penalty=1.3, presence_penalty=0.7, seed=2)


def run(batch: RequestBatch, steps: int | None = None) -> dict[int, list[RequestStep]]:
    """What each request gets in some steps, or until all have ended."""
    got: dict[int, list[RequestStep]] = {}
    while batch.is_busy if steps is None else steps > 0:
        steps = None if steps is None else steps - 1
        for result in batch.step():
            got.setdefault(result.number, []).append(result)
    return got


def tokens_of(steps: list[RequestStep]) -> list[int | None]:
    return [step.token for step in steps]


def alone(model: DecoderModel, request: Request) -> list[int]:
    rows = [list(request.prompt)] * (request.row + 1)
    found = generate(
        model,
        rows,
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        stop_tokens=request.stop_tokens,
        state=request.state,
    )
    return found.tokens[request.row].tolist()


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_requests_whose_prompts_are_read_in_pieces_get_what_they_get_alone(family: str, changes: dict):
    model = small_model(family, **changes)
    prompts = random_tokens(3, 17).tolist()
    requests = [
        Request(prompt=prompts[0][:3], max_new_tokens=12),
        Request(prompt=prompts[1], max_new_tokens=4, sampling=DRAWN),
        Request(prompt=prompts[2][:9], max_new_tokens=5, sampling=PENALISED, row=2),
    ]
    batch = RequestBatch(model, tokens_per_step=4)
    first = batch.admit(requests[0])
    got = run(batch, 2)
    others = [batch.admit(request) for request in requests[1:]]
    for number, steps in run(batch).items():
        got.setdefault(number, []).extend(steps)
    assert [tokens_of(got[number]) for number in (first, *others)] == [alone(model, request) for request in requests]
    assert not batch.is_busy
    going_on = generate(model, state=batch.state(first), max_new_tokens=3)
    assert going_on.tokens[0].tolist() == alone(model, Request(prompt=prompts[0][:3], max_new_tokens=15))[12:]


def test_running_requests_get_a_token_with_each_piece_of_a_prompt():
    batch = RequestBatch(small_model("retnet"), tokens_per_step=4)
    running = batch.admit(Request(prompt=[1, 2], max_new_tokens=50))
    run(batch, 1)
    long = batch.admit(Request(prompt=list(range(20)), max_new_tokens=2))
    short = batch.admit(Request(prompt=[3], max_new_tokens=9))
    assert batch.waiting == (long, short)
    steps = [{result.number for result in batch.step()} for _ in range(7)]
    assert all(running in numbers for numbers in steps)
    assert [short in numbers for numbers in steps] == [False, True, True, True, True, True, True]
    assert [long in numbers for numbers in steps] == [False] * 5 + [True, True]


def test_a_broken_state_ends_its_own_request_alone():
    model = small_model("retnet", dtype=torch.float32)
    broken = model(torch.tensor([[1, 2]])).state
    broken.layers[0].kv.fill_(3e38)
    batch = RequestBatch(model)
    good = batch.admit(Request(prompt=[1, 2, 3], max_new_tokens=4))
    bad = batch.admit(Request(prompt=[1, 2, 3], max_new_tokens=4, state=broken))
    got = run(batch)
    assert tokens_of(got[good]) == generate(model, [1, 2, 3], max_new_tokens=4).tokens[0].tolist()
    assert [step.ended for step in got[bad]] == ["failed"]
    assert "must be finite" in str(got[bad][0].error)
    with pytest.raises(ValueError, match=f"request {bad} has no state, for it has failed"):
        batch.state(bad)
    batch.remove(bad)


def test_requests_leave_whenever_they_are_removed():
    model = small_model("hybrid")
    batch = RequestBatch(model, tokens_per_step=4)
    gone, kept = (batch.admit(Request(prompt=[1, 2, 3], max_new_tokens=6)) for _ in range(2))
    waiting = batch.admit(Request(prompt=[1] * 30, max_new_tokens=6))
    got = run(batch, 3)
    batch.remove(waiting)
    batch.remove(gone)
    assert batch.running == (kept,)
    assert batch.waiting == ()
    got[kept] += run(batch)[kept]
    assert tokens_of(got[kept]) == generate(model, [1, 2, 3], max_new_tokens=6).tokens[0].tolist()
    with pytest.raises(KeyError, match=f"request {gone} is not of this batch, or was removed"):
        batch.remove(gone)


def test_log_probabilities_are_those_of_the_models_own_softmax():
    model = small_model("hybrid")
    batch = RequestBatch(model)
    number = batch.admit(Request(prompt=[1, 2, 3], max_new_tokens=3, sampling=DRAWN, logprobs=2))
    steps = run(batch)[number]
    text = [1, 2, 3, *(step.token for step in steps if step.token is not None)]
    with torch.no_grad():
        expected = model(torch.tensor([text])).logits[0].log_softmax(-1)
    for place, step in enumerate(steps, 2):
        assert step.logprobs is not None
        assert step.logprobs.logprob == pytest.approx(float(expected[place, text[place + 1]]))
        likeliest = expected[place].topk(2)
        assert [token for token, _ in step.logprobs.top] == likeliest.indices.tolist()
        assert [value for _, value in step.logprobs.top] == pytest.approx(likeliest.values.tolist())


def text_model() -> DecoderModel:
    return small_model("retnet", vocab_size=257)


def test_a_stop_string_ends_a_request_and_is_not_part_of_its_text():
    model, tokenizer = text_model(), ByteTokenizer()
    never = tuple(number for number in range(257) if not 97 <= number < 110)
    sampling = Sampling(temperature=5.0, seed=1, never=never)
    whole = tokenizer.decode(generate(model, [5], max_new_tokens=30, sampling=sampling).tokens[0].tolist())
    batch = RequestBatch(model, tokenizer=tokenizer)
    end = whole[12:15]
    stopped = batch.admit(Request(prompt=[5], max_new_tokens=30, sampling=sampling, stop_strings=[end, "zz"]))
    free = batch.admit(Request(prompt=[5], max_new_tokens=30, sampling=sampling, stop_strings=[whole[-2:] + "z"]))
    got = run(batch)
    place = whole.index(end)
    assert "".join(step.text for step in got[stopped]) == whole[:place]
    assert len(got[stopped]) == place + 3
    assert got[stopped][-1].ended == "stop_string"
    assert "".join(step.text for step in got[free]) == whole
    assert got[free][-1].ended == "length"


def test_neighbours_are_looked_up_once_a_step_and_are_part_of_the_answer():
    model, asked = small_model("retro"), list[int]()

    def retriever(chunks: torch.Tensor) -> torch.Tensor:
        asked.append(len(chunks))
        return torch.cat((chunks, (2 * chunks + 1) % 23), 1)[:, None]

    prompts = random_tokens(2, 9).tolist()
    batch = RequestBatch(model, retriever=retriever, tokens_per_step=4)
    first = batch.admit(Request(prompt=prompts[0][:4], max_new_tokens=9))
    got = run(batch, 4)
    second = batch.admit(Request(prompt=prompts[1], max_new_tokens=3))
    asked.clear()
    for result in batch.step():  # the first one ends its second chunk, and the prompt of the other its first
        got[result.number].append(result)
    assert asked == [2]
    for number, steps in run(batch).items():
        got.setdefault(number, []).extend(steps)
    alone = generate(model, prompts[0][:4], max_new_tokens=9, retriever=retriever).tokens[0].tolist()
    read = [one for step in got[first] for one in step.neighbours]
    assert [one.from_token for one in read] == [4, 8, 12]
    text = prompts[0][:4] + alone
    assert read[-1].chunk == tuple(text[8:12])
    assert read[-1].tokens == ((*text[8:12], *((2 * token + 1) % 23 for token in text[8:12])),)
    assert [one.from_token for step in got[second] for one in step.neighbours] == [4, 8]
