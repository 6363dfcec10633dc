"""OpenAI's own client against the server, unchanged: each text is what `generate` gives alone."""

import asyncio
import json
import time
from pathlib import Path

import openai
import pytest

from retentive import Sampling, generate
from retentive.generation import GenerationState
from retentive.models.transformer import TransformerConfig
from retentive.serving.config import ServeConfig
from retentive.serving.running import EVERYBODY
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.tokenizer import encode_prompt
from serving.http import call
from serving.serving import Running, running, save_small_model

GREEDILY = Sampling()
GREEDY = {"temperature": 0, "seed": 1}


def alone(served: Running, ids, count, sampling=GREEDILY, state=None, rows=1):
    """Texts that `generate` gives without a server."""
    words = served.service.words
    result = generate(
        served.service.model, [ids] * rows, max_new_tokens=count, sampling=sampling, stop_tokens=words.ends, state=state
    )
    return [words.tokenizer.decode(row.tolist()) for row in result.tokens], result


def asked(served: Running, text: str) -> list[int]:
    return encode_prompt(served.service.words.tokenizer, text)


def test_models_are_listed(served: Running) -> None:
    client = served.client()
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError, match="model must be 'small'"):
        client.completions.create(model="other", prompt="a")


def test_a_completion_is_what_generate_gives(served: Running) -> None:
    answer = served.client().completions.create(model="small", prompt="Once", max_tokens=12, **GREEDY)
    (text,), result = alone(served, asked(served, "Once"), 12)
    assert answer.choices[0].text == text
    assert answer.choices[0].finish_reason == ("stop" if result.stopped[0] else "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, len(result.tokens[0]))


def test_a_stream_gives_the_same_text_and_the_usage(served: Running) -> None:
    client = served.client()
    whole = client.completions.create(model="small", prompt="Once", max_tokens=12, seed=5)
    parts = list(
        client.completions.create(
            model="small", prompt="Once", max_tokens=12, seed=5, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text
    assert parts[-1].usage == whole.usage
    assert len(parts) > 3


def test_choices_are_the_rows_of_generate(served: Running) -> None:
    answer = served.client().completions.create(model="small", prompt=["ab", "xyz"], max_tokens=6, n=2, seed=7)
    sampling = Sampling(temperature=1.0, seed=7)
    texts = [text for prompt in ("ab", "xyz") for text in alone(served, asked(served, prompt), 6, sampling, rows=2)[0]]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 4


def test_token_ids_are_a_prompt_and_echo_puts_it_first(served: Running) -> None:
    ids = asked(served, "tea")
    answer = served.client().completions.create(model="small", prompt=ids, max_tokens=3, echo=True, **GREEDY)
    assert answer.choices[0].text == "tea" + alone(served, ids, 3)[0][0]


def test_a_stop_string_ends_the_text_before_it(served: Running) -> None:
    client = served.client()
    whole = client.completions.create(model="small", prompt="Once", max_tokens=12, **GREEDY).choices[0].text
    stop = whole[5:7]
    answer = client.completions.create(model="small", prompt="Once", max_tokens=12, stop=stop, **GREEDY)
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    streamed = client.completions.create(
        model="small", prompt="Once", max_tokens=12, stop=[stop], stream=True, **GREEDY
    )
    assert "".join(part.choices[0].text for part in streamed) == answer.choices[0].text


def test_logprobs_have_both_shapes(served: Running) -> None:
    client = served.client()
    answer = client.completions.create(model="small", prompt="Once", max_tokens=3, logprobs=2, **GREEDY)
    old = answer.choices[0].logprobs
    assert old is not None
    assert old.token_logprobs is not None
    assert len(old.token_logprobs) == 3
    assert all(logprob < 0 for logprob in old.token_logprobs)
    chat = client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=3,
        logprobs=True,
        top_logprobs=2,
        temperature=0,
    )
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content
    assert content is not None
    assert [len(token.top_logprobs) for token in content] == [2, 2, 2]
    # Greedy takes the likeliest.
    assert all(token.logprob == token.top_logprobs[0].logprob for token in content)


def test_parts_of_characters_are_told_apart_and_begin_where_the_character_does(served: Running) -> None:
    # The bytes of two letters, in any order.
    asked = {
        "model": "small", "prompt": "Once", "max_tokens": 40, "logprobs": 5, "seed": 2, "temperature": 8,
        "logit_bias": {str(byte): 90 for byte in (0xC3, 0xA0, 0xA1, 97)},
    }  # fmt: skip
    choice = call(served, "POST", "/v1/completions", asked).json["choices"][0]
    found, text = choice["logprobs"], choice["text"]
    assert {"bytes:\\xc3", "bytes:\\xa0", "a"} <= set(found["tokens"])
    assert [len(top) for top in found["top_logprobs"]] == [5] * 40
    for token, place in zip(found["tokens"], found["text_offset"], strict=True):
        assert text[place] >= "\x80" if token.startswith("bytes:") else text[place] == token
    streamed = call(served, "POST", "/v1/completions", {**asked, "stream": True}).content.decode().splitlines()
    events = [json.loads(line[6:]) for line in streamed if line.startswith("data: {")]
    told = [event["choices"][0]["logprobs"] for event in events if "logprobs" in event["choices"][0]]
    assert [place for one in told for place in one["text_offset"]] == found["text_offset"]
    letter = next(character for character in text if character in "àá")
    stopped = call(served, "POST", "/v1/completions", {**asked, "stop": letter}).json["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (text.partition(letter)[0], "stop")


def test_a_cancel_that_reaches_another_replica_ends_the_answer(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServeConfig(checkpoint=model_folder, port=1, sessions=str(tmp_path / "s"), engine="ray", replicas=2)
    with running(config, port=0) as one, running(config, port=0) as other:
        stream = iter(
            one.client().responses.create(
                model="small", input="Hello", max_output_tokens=4096, stream=True, extra_body={"ignore_eos": True}
            )
        )
        identifier = next(stream).response.id  # pyright: ignore
        assert other.client().responses.cancel(identifier).status == "cancelled"
        last = list(stream)[-1].response  # pyright: ignore
        assert (last.id, last.status) == (identifier, "cancelled")
        # What has ended is told as it is, and what nobody writes is not there.
        assert other.client().responses.cancel(identifier).status == "cancelled"
        monkeypatch.setattr("retentive.serving.running.ANSWER_SECONDS", 0.5)
        with pytest.raises(openai.NotFoundError):
            other.client().responses.cancel("resp_0123456789")


def test_a_word_for_everybody_ends_answers_which_are_stored(model_folder: Path, tmp_path: Path) -> None:
    config = ServeConfig(checkpoint=model_folder, port=1, sessions=str(tmp_path / "s"), engine="ray")
    with running(config, port=0) as one:
        one.service.ending_word = "ending_0123456789"
        client, more = one.client(), {"ignore_eos": True, "return_state": True}
        turn = iter(
            client.responses.create(
                model="small", input="Hello", max_output_tokens=4096, stream=True, extra_body={"ignore_eos": True}
            )
        )
        identifier = next(turn).response.id  # pyright: ignore
        text = iter(
            client.completions.create(model="small", prompt="Hello", max_tokens=4096, stream=True, extra_body=more)
        )
        next(text)
        one.service.place.ask_to_end(EVERYBODY, "ending_0123456789")
        assert list(turn)[-1].response.status == "cancelled"  # pyright: ignore
        assert any(getattr(choice, "state", None) for part in text for choice in part.choices)
        assert len(one.service.place.records("local", newest=10)) == 2
        assert one.service.place.record("local", identifier) is not None


def test_a_chat_is_the_template_and_then_generate(served: Running) -> None:
    client, words = served.client(), served.service.words
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert words.template is not None
    (text,), _ = alone(served, words.template.encode(messages), 9)
    answer = client.chat.completions.create(model="small", messages=messages, max_completion_tokens=9, temperature=0)  # pyright: ignore
    assert answer.choices[0].message.content == text
    stream = client.chat.completions.create(model="small", messages=messages, max_tokens=9, temperature=0, stream=True)  # pyright: ignore
    assert "".join(part.choices[0].delta.content or "" for part in stream) == text


def test_where_nothing_is_said_a_model_writes_what_it_has_room_for(tmp_path: Path) -> None:
    config = TransformerConfig(
        vocab_size=ByteTokenizer().vocab_size, hidden_size=16, num_layers=1, num_heads=2, positions="learned",
        max_positions=50,
    )  # fmt: skip
    folder = save_small_model(tmp_path / "short", config=config)
    with running(ServeConfig(checkpoint=folder, port=0, sessions=str(tmp_path / "s"))) as one:
        client, goes_on = one.client(), {"ignore_eos": True}
        asking = {"model": "short", "messages": [{"role": "user", "content": "Hello"}], "extra_body": goes_on}
        answer = client.chat.completions.create(**asking)  # pyright: ignore
        assert answer.usage.total_tokens == 51  # pyright: ignore - the last one is not read
        first = client.responses.create(model="short", input="Hello", max_output_tokens=3, extra_body=goes_on)
        second = client.responses.create(model="short", input="!", previous_response_id=first.id, extra_body=goes_on)
        assert second.usage is not None
        assert second.usage.total_tokens == 51
        with pytest.raises(openai.BadRequestError, match="50"):
            client.chat.completions.create(max_tokens=50, **asking)  # pyright: ignore


def test_a_response_goes_on_from_a_stored_state(served: Running) -> None:
    client, words = served.client(), served.service.words
    assert words.template is not None
    first = client.responses.create(model="small", input="Hello", max_output_tokens=6, temperature=0)
    history = [{"role": "user", "content": "Hello"}]
    (text,), result = alone(served, words.template.encode(history), 6)
    assert first.output_text == text
    state = result.state.model if result.stopped[0] else result.state
    history.append({"role": "assistant", "content": text})
    ids = words.template.encode_after_answer(history, [{"role": "user", "content": "And?"}])
    for _ in range(2):  # naming one id twice forks it
        second = client.responses.create(
            model="small", input="And?", max_output_tokens=6, temperature=0, previous_response_id=first.id
        )
        assert second.output_text == alone(served, ids, 6, state=state)[0][0]
        assert second.usage is not None
        # Only new tokens are read: those after the state, its unread token included.
        read = second.usage.input_tokens - second.usage.input_tokens_details.cached_tokens
        assert read == len(ids) + (1 if isinstance(state, GenerationState) else 0)
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_penalties_and_biases_are_those_of_generate(served: Running) -> None:
    client, ids = served.client(), asked(served, "Once")
    answer = client.completions.create(
        model="small", prompt="Once", max_tokens=9, temperature=0, presence_penalty=1.5, frequency_penalty=0.5,
        logit_bias={"65": 30}, extra_body={"repetition_penalty": 1.3},
    )  # fmt: skip
    sampling = Sampling(presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.3, logit_bias=((65, 30.0),))
    assert answer.choices[0].text == alone(served, ids, 9, sampling)[0][0]
    assert "A" in answer.choices[0].text
    likely = client.completions.create(model="small", prompt="Once", max_tokens=9, seed=2, extra_body={"min_p": 0.5})
    assert likely.choices[0].text == alone(served, ids, 9, Sampling(temperature=1.0, min_p=0.5, seed=2))[0][0]


def test_an_answer_that_its_last_token_ended_is_gone_on_from(served: Running) -> None:
    client, words = served.client(), served.service.words
    assert words.template is not None
    end = {"logit_bias": {str(words.tokenizer.end_of_text): 100}}
    first = client.responses.create(model="small", input="Hello", extra_body=end, temperature=0)
    assert (first.status, first.output_text) == ("completed", "")
    said = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "And?"},
    ]
    second = client.responses.create(
        model="small", input="And?", max_output_tokens=6, temperature=0, previous_response_id=first.id
    )
    assert second.output_text == alone(served, words.template.encode(said), 6)[0][0]


def test_a_streamed_response_has_the_events_in_order(served: Running) -> None:
    client = served.client()
    whole = client.responses.create(model="small", input="Hello", max_output_tokens=6, extra_body={"seed": 3})
    with client.responses.stream(model="small", input="Hello", max_output_tokens=6, extra_body={"seed": 3}) as stream:
        events = list(stream)
    final = events[-1].response  # pyright: ignore
    assert [event.type for event in events][:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert [event.sequence_number for event in events] == sorted(event.sequence_number for event in events)
    assert final.output_text == whole.output_text
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_an_answer_is_input_as_it_came_and_as_the_client_writes_it_down(served: Running) -> None:
    client, asked = served.client(), [{"role": "user", "content": "Hello"}, {"role": "user", "content": "And?"}]
    first = client.responses.create(model="small", input=asked[:1], max_output_tokens=4, temperature=0)  # pyright: ignore
    dumped = [item.model_dump() for item in first.output]  # with null for all that was not said
    texts = {
        client.responses.create(
            model="small",
            input=[asked[0], *items, asked[1]],
            max_output_tokens=4,
            temperature=0,  # pyright: ignore
        ).output_text
        for items in (first.output, dumped, [{"role": "assistant", "content": first.output_text}])
    }
    assert len(texts) == 1


def test_an_answer_that_is_not_stored_cannot_be_gone_on_from(served: Running) -> None:
    client = served.client()
    first = client.responses.create(model="small", input="Hello", max_output_tokens=2, store=False)
    with pytest.raises(openai.NotFoundError, match="there is no state"):
        client.responses.create(model="small", input="And?", previous_response_id=first.id)


def test_many_at_once_each_get_what_they_get_alone(served: Running) -> None:
    prompts = [f"number {number}" + "." * number for number in range(8)]

    async def ask() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        answers = [
            client.completions.create(model="small", prompt=prompt, max_tokens=5 + number, temperature=0)
            for number, prompt in enumerate(prompts)
        ]
        return [answer.choices[0].text for answer in await asyncio.gather(*answers)]

    alone_texts = [alone(served, asked(served, prompt), 5 + number)[0][0] for number, prompt in enumerate(prompts)]
    assert asyncio.run(ask()) == alone_texts


def test_a_client_that_leaves_frees_its_row(served: Running) -> None:
    client = served.client()
    stream = client.completions.create(
        model="small", prompt="Once", max_tokens=4096, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert not served.service.thread.is_idle
    stream.close()
    deadline = time.monotonic() + 20
    while not served.service.thread.is_idle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert served.service.thread.is_idle


def test_a_response_that_is_cancelled_keeps_what_it_has(served: Running) -> None:
    client = served.client()
    stream = client.responses.create(
        model="small", input="Hello", max_output_tokens=4096, stream=True, extra_body={"ignore_eos": True}
    )
    events = iter(stream)
    created = next(events)
    text, last = "", None
    for event in events:
        if event.type == "response.output_text.delta":
            if not text:
                client.responses.cancel(created.response.id)  # pyright: ignore
            text += event.delta
        last = event
    assert last is not None
    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"
    assert last.response.output_text == text
    again = client.responses.create(
        model="small", input="more", max_output_tokens=2, previous_response_id=last.response.id
    )
    assert again.previous_response_id == last.response.id


def test_a_prompt_that_was_read_is_not_read_again(served: Running) -> None:
    client = served.client()
    said = [{"role": "user", "content": "A long question about one thing and another."}]
    asking = {"model": "small", "max_tokens": 5, "temperature": 0}
    first = client.chat.completions.create(messages=said, **asking)  # pyright: ignore
    said += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "Why?"}]
    second = client.chat.completions.create(messages=said, **asking)  # pyright: ignore
    anew = client.chat.completions.create(messages=said, extra_body={"no_cache": True}, **asking)  # pyright: ignore
    assert second.choices[0].message.content == anew.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens > 16  # pyright: ignore
    assert anew.usage.prompt_tokens_details.cached_tokens == 0  # pyright: ignore
