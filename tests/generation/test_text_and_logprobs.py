"""Stop strings, text and log-probabilities of `generate` and `stream`: what a row of a `RequestBatch` gets."""

import pytest

from laws.families import small_model
from retentive.generation import PromptLookup, Request, RequestBatch, RequestStep, Sampling, generate, stream
from retentive.generation.logprobs import shown
from retentive.serving.answers.logprobs import of_token
from retentive.text.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
# Letters, and both bytes of some letters of two bytes, which tokens may part.
NEVER = tuple(number for number in range(257) if number not in {*range(97, 104), 0xC3, *range(0xA0, 0xA8)})
SAMPLING = Sampling(temperature=3.0, seed=1, never=NEVER)
PROMPTS = [[5], [104, 105, 106], [7, 8]]


def in_a_batch(model, stop_strings: tuple[str, ...], rows: int = 3) -> list[list[RequestStep]]:
    batch = RequestBatch(model, tokenizer=TOKENIZER)
    for row, prompt in enumerate(PROMPTS[:rows]):
        batch.admit(
            Request(prompt=prompt, max_new_tokens=12, sampling=SAMPLING, row=row, stop_strings=stop_strings, logprobs=2)
        )
    got: list[list[RequestStep]] = [[] for _ in range(rows)]
    while batch.is_busy:
        for step in batch.step():
            got[step.number].append(step)
    return got


def check(tokens, text, ended, logprobs, expected: list[RequestStep]) -> None:
    assert tokens == [step.token for step in expected]
    assert text == "".join(step.text for step in expected)
    assert ended == expected[-1].ended
    for one, step in zip(logprobs, expected, strict=True):
        assert step.logprobs is not None
        assert one.logprob == pytest.approx(step.logprobs.logprob)
        assert [token for token, _ in one.top] == [token for token, _ in step.logprobs.top]
        assert [value for _, value in one.top] == pytest.approx([value for _, value in step.logprobs.top])


def test_rows_get_what_requests_get():
    model = small_model("retnet", vocab_size=257)
    (free, *_) = in_a_batch(model, ())
    whole = "".join(step.text for step in free)
    asked = {"max_new_tokens": 12, "sampling": SAMPLING, "tokenizer": TOKENIZER, "logprobs": 2}
    for stops in ((), (whole[4:7], "zz"), (whole[0],)):
        expected = in_a_batch(model, stops)
        result = generate(model, PROMPTS, stop_strings=stops, **asked)
        assert result.text is not None
        assert result.logprobs is not None
        for row, steps in enumerate(expected):
            check(result.tokens[row].tolist(), result.text[row], result.ended[row], result.logprobs[row], steps)
        assert result.ended[0] == ("stop_string" if stops else "length")
        assert result.stopped == (False,) * 3
        assert result.text[0] == (whole.partition(stops[0])[0] if stops else whole)
        steps = stream(model, PROMPTS, stop_strings=stops, **asked)
        text, likely = ["", "", ""], ([], [], [])
        for tokens in steps:
            for row, token in enumerate(tokens):
                text[row] += steps.text[row]
                assert (token is None) == (steps.logprobs[row] is None)
                likely[row].extend([] if token is None else [steps.logprobs[row]])
        assert (tuple(text), tuple(map(tuple, likely)), steps.ended) == (result.text, result.logprobs, result.ended)
        drafts = PromptLookup(pauses=False, shortest_ngram=1)
        drafted = generate(model, PROMPTS[0], stop_strings=stops, drafts=drafts, **asked)
        assert drafted.text is not None
        assert drafted.logprobs is not None
        check(drafted.tokens[0].tolist(), drafted.text[0], drafted.ended[0], drafted.logprobs[0], expected[0])


def test_a_stop_token_is_no_text_and_wins_over_a_stop_string():
    model = small_model("retnet", vocab_size=257)
    first = generate(model, [5], max_new_tokens=1).tokens[0].item()
    both = generate(
        model,
        [5],
        max_new_tokens=3,
        stop_tokens=[first],
        stop_strings=[TOKENIZER.decode([first])],
        tokenizer=TOKENIZER,
    )
    assert (both.text, both.ended, both.stopped, both.logprobs) == (("",), ("stop_token",), (True,), None)
    plain = generate(model, [5], max_new_tokens=1)
    assert (plain.text, plain.ended, plain.logprobs) == (None, ("length",), None)


@pytest.mark.parametrize("call", [generate, stream], ids=["generate", "stream"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stop_strings": ["a"]}, ValueError, "stop_strings must come with a tokenizer, which turns tokens into text"),
        ({"stop_strings": "a"}, TypeError, r"must be a list of strings, but is a str: give \['a'\]"),
        ({"stop_strings": [""], "tokenizer": TOKENIZER}, ValueError, "at least one character, but one is empty"),
        ({"logprobs": -1}, ValueError, "logprobs must be at least 0, or None for none, but is -1"),
    ],
)
def test_what_cannot_be_is_refused(call, arguments: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call(small_model("retnet"), [1], max_new_tokens=2, **arguments)


def test_ids_that_the_tokenizer_does_not_have_are_no_text_and_end_nothing():
    """A model may have more rows than its tokenizer has ids."""
    model = small_model("retnet", vocab_size=300)
    unknown = Sampling(never=tuple(range(257)))
    result = generate(model, [1], max_new_tokens=3, sampling=unknown, tokenizer=TOKENIZER, logprobs=2)
    assert result.text == ("\ufffd" * 3,)
    first = shown(int(result.tokens[0][0]), result.logprobs[0][0], TOKENIZER)
    assert (first["token"], len(first["top_logprobs"])) == ("\ufffd", 2)
    batch = RequestBatch(model, tokenizer=TOKENIZER)
    batch.admit(Request(prompt=[1], max_new_tokens=3, sampling=unknown, logprobs=2))
    step = batch.step()[0]
    while step.token is None:
        step = batch.step()[0]
    named = of_token(step, TOKENIZER)
    assert named is not None
    assert named.token == "\ufffd"
