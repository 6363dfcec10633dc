"""Stored states: files that other programs go on from, and every crafted one refused."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from retentive import Sampling, generate, load_state
from retentive.generation.chat import Chat, Conversation
from retentive.generation.chat.sessions import save_conversation
from retentive.generation.session import GenerateConfig, TextSession
from retentive.serving.config import ServeConfig
from retentive.serving.sessions.codec import TURN
from retentive.serving.sessions.record import new_id
from serving.http import call
from serving.serving import Running, running, save_small_model


def first_answer(served: Running, **more: object) -> dict:
    asked = {"model": "small", "input": "Hello", "max_output_tokens": 4, "temperature": 0, **more}
    return call(served, "POST", "/v1/responses", asked).json


def test_a_state_is_a_file_that_goes_on_elsewhere(served: Running, tmp_path: Path) -> None:
    answer = first_answer(served)
    file = tmp_path / "state.safetensors"
    file.write_bytes(call(served, "GET", f"/v1/states/{answer['id']}").content)
    state = load_state(file, served.service.model)
    alone = generate(served.service.model, state=state, max_new_tokens=5).tokens[0].tolist()
    # The command line goes on from it.
    config = GenerateConfig(
        checkpoint=served.service.config.checkpoint, state=file, max_new_tokens=5, temperature=0.0, stop_at_end=False
    )
    written = "".join(one.text for one in TextSession(config, None))
    assert written == served.service.words.tokenizer.decode(alone)[: len(written)]
    # And so does a completion of the server.
    asked = {
        "model": "small",
        "state": answer["id"],
        "prompt": "",
        "max_tokens": 5,
        "temperature": 0,
        "ignore_eos": True,
    }
    choice = call(served, "POST", "/v1/completions", asked).json["choices"][0]
    assert choice["text"] == served.service.words.tokenizer.decode(alone)


def test_a_file_that_is_put_is_gone_on_from(served: Running) -> None:
    answer = first_answer(served)
    content = call(served, "GET", f"/v1/states/{answer['id']}").content
    put = call(served, "PUT", "/v1/states", content).json
    assert put["kind"] == "upload"
    assert put["turn"]["output"] == answer["output"][0]["content"][0]["text"]
    texts = {
        first_answer(served, input="And?", previous_response_id=identifier)["output"][0]["content"][0]["text"]
        for identifier in (answer["id"], put["id"])
    }
    assert len(texts) == 1


@pytest.mark.parametrize("ends", [True, False])
def test_a_conversation_of_the_terminal_is_gone_on_from(served: Running, tmp_path: Path, ends: bool) -> None:
    service = served.service
    words, model = service.words, service.model
    assert words.template is not None
    chats = [
        Chat(model, words.tokenizer, words.template, sampling=sampling, max_new_tokens=4, ends=words.ends)
        for sampling in (Sampling(logit_bias=((words.ends[0], 100.0),) if ends else ()), Sampling())
    ]
    list(first := chats[0].answer(Conversation(), "Hello"))
    assert first.ended is ends
    save_conversation(first.conversation, tmp_path / "one.safetensors", model)
    list(second := chats[1].answer(first.conversation, "And?"))
    put = call(served, "PUT", "/v1/states", (tmp_path / "one.safetensors").read_bytes()).json
    assert put["turn"]["input"] == [{"role": "user", "content": "Hello"}]
    answer = first_answer(served, input="And?", previous_response_id=put["id"], max_output_tokens=4)
    assert answer["output"][0]["content"][0]["text"] == second.conversation.messages[-1]["content"]
    assert answer["usage"]["input_tokens"] == first.conversation.tokens_read + second.num_read - 1


def test_states_are_listed_forked_and_deleted(served: Running) -> None:
    answer = first_answer(served)
    fork = call(served, "POST", f"/v1/states/{answer['id']}/fork").json
    assert fork["parent"] == answer["id"]
    listed = call(served, "GET", "/v1/states?limit=2").json
    assert [state["id"] for state in listed["data"]] == [fork["id"], answer["id"]]
    assert listed["data"][0]["bytes"] == len(call(served, "GET", f"/v1/states/{fork['id']}").content)
    assert call(served, "DELETE", f"/v1/states/{answer['id']}").json["deleted"] is True
    assert call(served, "GET", f"/v1/states/{answer['id']}").status == 404
    assert call(served, "DELETE", f"/v1/states/{answer['id']}").status == 404
    assert call(served, "GET", f"/v1/states/{fork['id']}").status == 200


def rewritten(content: bytes, tmp_path: Path, change) -> bytes:
    """The file with other tensors, and a digest that fits them."""
    from retentive.checkpoints.tensor_file import digest, open_tensors

    source, target = tmp_path / "source.safetensors", tmp_path / "target.safetensors"
    source.write_bytes(content)
    with open_tensors(source) as reader:
        about = dict(reader.metadata)
    tensors = load_file(source)
    change(tensors, about)
    if "sha256" in about:
        about["sha256"] = digest(tensors)
    save_file(tensors, target, about)
    return target.read_bytes()


def _nan(tensors, about):
    name = next(name for name in sorted(tensors) if tensors[name].is_floating_point() and tensors[name].numel() > 4)
    tensors[name] = torch.full_like(tensors[name], float("nan"))


def _infinite(tensors, about):
    name = next(name for name in sorted(tensors) if tensors[name].is_floating_point() and tensors[name].numel() > 4)
    tensors[name] = torch.full_like(tensors[name], float("inf"))


def _shape(tensors, about):
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 4)
    tensors[name] = tensors[name][..., :-1].contiguous()


def _unread(tensors, about):
    tensors["unread"] = torch.tensor([1 << 40])


def _negative(tensors, about):
    for name in tensors:
        if "position" in name or name.endswith("at"):
            tensors[name] = torch.full_like(tensors[name], -5)


def _endless(tensors, about):
    tensors["model.position"] = torch.tensor([2**63 - 1])


def _negative_in_a_layer(tensors, about):
    tensors["model.layers.1.position"] = torch.tensor([-1])


def _negative_counts(tensors, about):
    tensors["counts.read"] = torch.zeros(1, 257, dtype=torch.bool)
    tensors["counts.said"] = torch.full((1, 257), -3, dtype=torch.int32)
    about["format_version"] = "2"


def _rows(tensors, about):
    about["rows"] = str(10**12)


def _some_rows_more(tensors, about):
    """Of no rows, so that nothing tells how many a tensor has; and these would end the texts of others."""
    about["rows"] = "0"
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 4)
    tensors[name] = torch.cat([tensors[name]] * 2)


def _null_config(tensors, about):
    about["config"] = "null"


def _another_kind(tensors, about):
    about["kind"] = "wizard"


def _weights(tensors, about):
    about["weights"] = "0" * 64


def _no_header(tensors, about):
    about.clear()


def _deep(tensors, about):
    about["config"] = "[" * 100000 + "]" * 100000


CRAFTED = [_nan, _infinite, _shape, _unread, _negative, _endless, _negative_in_a_layer, _negative_counts]
CRAFTED += [_rows, _some_rows_more, _null_config, _another_kind, _weights, _no_header, _deep]


@pytest.mark.parametrize("change", CRAFTED, ids=lambda one: one.__name__)
def test_a_crafted_state_is_refused_and_changes_nothing(served: Running, tmp_path: Path, change) -> None:
    content = call(served, "GET", f"/v1/states/{first_answer(served)['id']}").content
    before = served.service.place.size()
    answer = call(served, "PUT", "/v1/states", rewritten(content, tmp_path, change))
    assert answer.status == 400, answer.content
    assert answer.json["error"]["message"].startswith("the state is refused")
    assert "/tmp" not in answer.json["error"]["message"]
    assert served.service.place.size() == before


def test_what_a_file_says_of_its_last_turn_is_taken_where_it_can_be_said_again(served: Running, tmp_path: Path) -> None:
    content = call(served, "GET", f"/v1/states/{first_answer(served)['id']}").content
    turn = {"input": [{"role": "user", "content": "x"}], "output": "y", "ended": False}

    def put_with(said):
        def change(tensors, about):
            about["metadata"] = json.dumps(said)

        return call(served, "PUT", "/v1/states", rewritten(content, tmp_path, change))

    for said in ([], 5, None, {TURN: 5}, {TURN: ["a"]}):
        assert put_with(said).status == 400, said
    strange = ("[" * 50_000, json.dumps({**turn, "input": 1}), json.dumps({**turn, "output": "\ud800"}))
    for said in (*({TURN: one} for one in strange), {TURN: json.dumps(turn)}):
        put = put_with(said)
        assert put.status == 201, (said, put.content)
        shown = call(served, "GET", f"/v1/states/{put.json['id']}/record").json
        assert shown["turn"] == (turn if said == {TURN: json.dumps(turn)} else None)
        assert first_answer(served, previous_response_id=put.json["id"])["status"] in ("completed", "incomplete")


def test_a_fork_is_a_state_and_no_answer(served: Running) -> None:
    fork = call(served, "POST", f"/v1/states/{first_answer(served)['id']}/fork").json["id"]
    assert call(served, "GET", f"/v1/responses/{fork}").status == 404
    assert call(served, "DELETE", f"/v1/responses/{fork}").status == 404
    assert call(served, "DELETE", f"/v1/states/{fork}").status == 200


def test_an_answer_of_another_version_is_told_and_gone_on_from(served: Running) -> None:
    identifier = first_answer(served)["id"]
    place = served.service.place
    record = place.record("local", identifier)
    content = place.content(record)
    for said in ({"colour": "blue"}, None):
        old = replace(record, id=new_id("resp"), turn={**record.turn, "response": said})
        place.put(old, content, 1000)
        told = call(served, "GET", f"/v1/responses/{old.id}")
        assert (told.status, told.json["error"]["code"]) == (409, "other_version")
        assert first_answer(served, previous_response_id=old.id)["status"] == "incomplete"


def test_a_time_that_is_no_number_is_refused(served: Running) -> None:
    for before in ("nan", "inf", "x"):
        assert call(served, "GET", f"/v1/states?before={before}").status == 400


def test_bytes_that_are_no_state_are_refused(served: Running) -> None:
    content = call(served, "GET", f"/v1/states/{first_answer(served)['id']}").content
    header = struct.pack("<Q", 1 << 40) + b"{}"
    for crafted in (b"", b"\x80\x04.", header, content[:-100], content[:50], content + b"more", b"x" * 4096):
        answer = call(served, "PUT", "/v1/states", crafted)
        assert answer.status == 400, crafted[:20]
    body = json.dumps(
        {"__metadata__": {"format": "x"}, "a": {"dtype": "F32", "shape": [1 << 50], "data_offsets": [0, 4]}}
    )
    crafted = struct.pack("<Q", len(body)) + body.encode() + b"0000"
    assert call(served, "PUT", "/v1/states", crafted).status == 400


def test_a_state_of_other_weights_is_refused(served: Running, tmp_path: Path) -> None:
    other = save_small_model(tmp_path / "small", seed=1)
    # The same place of sessions, as after new weights were put into the folder.
    config = ServeConfig(checkpoint=other, port=0, sessions=served.service.config.sessions_place)
    identifier = first_answer(served)["id"]
    content = call(served, "GET", f"/v1/states/{identifier}").content
    with running(config) as changed:
        asked = {"model": "small", "input": "And?", "previous_response_id": identifier}
        answer = call(changed, "POST", "/v1/responses", asked)
        assert (answer.status, answer.json["error"]["code"]) == (409, "other_weights")
        assert call(changed, "PUT", "/v1/states", content).status == 400
