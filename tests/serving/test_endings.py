"""Servers that end, in order or killed: no finished turn is lost, and no file is half."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest
from tokenizers import decoders

from laws.families import small_model
from retentive.checkpoints import save_model
from retentive.serving.config import ServeConfig
from retentive.serving.service import Service
from retentive.serving.sessions.opening import open_place
from retentive.text.subword_tokenizer import SubwordTokenizer
from serving.http import call
from serving.serving import running
from serving.test_sessions import start_redis
from text.vocabularies import sentencepiece_style


@contextmanager
def process_of(model: Path, sessions: str) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """``retentive serve`` in a process of its own."""
    command = [sys.executable, "-m", "retentive", "serve", str(model), "--port", "0", "--sessions", sessions]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        while True:
            try:
                call(found[0], "GET", "/readyz")
                break
            except ConnectionError:
                time.sleep(0.05)
        yield found[0], process
    finally:
        process.kill()
        process.wait()


def answer(url: str, **more: object) -> dict:
    asked = {"model": "small", "input": "Hello", "max_output_tokens": 4, "temperature": 0, **more}
    return call(url, "POST", "/v1/responses", asked).json


def test_a_kill_loses_no_finished_turn(model_folder: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def ask_until_killed(url: str) -> None:
        previous = {}
        while True:
            try:
                made = answer(url, **previous)
            except (OSError, HTTPException, ValueError):  # the connection broke, or the answer
                return
            told.append(made["id"])
            previous = {"previous_response_id": made["id"]}

    sessions = str(tmp_path / "sessions")
    with process_of(model_folder, sessions) as (url, process):
        threads = [threading.Thread(target=ask_until_killed, args=(url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(told) < 12:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    place = open_place(sessions)
    records = {record.id: record for record in place.records("local", newest=1000)}
    place.close()
    assert set(told) <= set(records)
    # Another server goes on from them.
    with running(ServeConfig(checkpoint=model_folder, port=0, sessions=sessions)) as served:
        assert answer(served.url, previous_response_id=told[-1])["previous_response_id"] == told[-1]


def test_ending_stores_answers_that_do_not_finish_in_time(model_folder: Path, tmp_path: Path) -> None:
    config = ServeConfig(checkpoint=model_folder, port=0, sessions=str(tmp_path))
    with running(config, finish_seconds=0.1) as served:
        client = served.client()
        stream = client.responses.create(
            model="small", input="a", max_output_tokens=4096, stream=True, extra_body={"ignore_eos": True}
        )
        events = iter(stream)
        next(events)
        served.server.should_exit = True
        last = list(events)[-1]
    assert last.type == "response.incomplete"
    place = open_place(str(tmp_path))
    assert [record.id for record in place.records("local", newest=5)] == [last.response.id]
    place.close()


def test_a_folder_that_goes_away_is_said_and_numbers_are_told_all_the_same(model_folder: Path, tmp_path: Path) -> None:
    with running(ServeConfig(checkpoint=model_folder, port=0, sessions=str(tmp_path / "s"))) as served:
        shutil.move(tmp_path / "s", tmp_path / "t")
        assert call(served, "GET", "/readyz").status == 503
        whole = call(served, "POST", "/v1/responses", {"model": "small", "input": "Hi", "max_output_tokens": 2})
        assert (whole.status, whole.json["error"]["code"]) == (503, "no_storage")
        assert int(whole.headers["retry-after"]) > 0
        client = served.client()
        events = list(client.responses.create(model="small", input="Hi", max_output_tokens=2, stream=True))
        assert events[-1].type == "response.failed"
        assert "states cannot be stored now" in events[-1].response.error.message  # pyright: ignore
        asked = {"model": "small", "prompt": "Hi", "max_tokens": 2, "stream": True, "return_state": True}
        assert b"states cannot be stored now" in call(served, "POST", "/v1/completions", asked).content
        assert call(served, "POST", "/v1/completions", {**asked, "return_state": False}).status == 200
        served.service.place.close()  # the index, too
        found = call(served, "GET", "/metrics")
        assert found.status == 200
        assert b"retentive_states NaN" in found.content
        shutil.move(tmp_path / "t", tmp_path / "s")


def test_while_redis_hangs_those_that_need_it_are_refused_and_others_go_on(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retentive.serving.sessions.redis_place.SECONDS", 0.6)
    monkeypatch.setattr("retentive.serving.service.STORAGE_SECONDS", 1.0)
    monkeypatch.setattr("retentive.serving.service.STORAGE_THREADS", 2)
    address, redis = start_redis(tmp_path)
    turn = {"model": "small", "input": "Hi", "max_output_tokens": 2}
    with running(ServeConfig(checkpoint=model_folder, port=0, sessions=address)) as served:
        first = call(served, "POST", "/v1/responses", turn).json["id"]
        following = {**turn, "previous_response_id": first}
        redis.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(12) as threads:  # more than may ask at once
            begun = time.monotonic()
            asked = [threads.submit(call, served, "POST", "/v1/responses", following) for _ in range(11)]
            plain = {"model": "small", "prompt": "Hi", "max_tokens": 2}
            assert call(served, "POST", "/v1/completions", plain).status == 200
            for answer in (one.result() for one in asked):
                assert (answer.status, answer.json["error"]["code"]) == (503, "no_storage")
                assert int(answer.headers["retry-after"]) > 0
            assert time.monotonic() - begun < 20  # none waits for all others
        assert call(served, "GET", "/readyz").status == 503
        assert call(served, "GET", "/healthz").status == 200
        redis.send_signal(signal.SIGCONT)
        assert call(served, "POST", "/v1/responses", following).status == 200
        assert call(served, "GET", "/readyz").status == 200
    redis.kill()
    redis.wait()


def test_a_taken_port_and_a_missing_model_are_named(model_folder: Path, tmp_path: Path, capsys) -> None:
    from retentive.cli.main import main
    from retentive.serving.server import listen

    place = listen("127.0.0.1", 0)
    place.listen()
    port = str(place.getsockname()[1])
    for arguments, said in (
        ([str(model_folder), "--port", port], f"127.0.0.1:{port}"),
        ([str(tmp_path / "none"), "--port", "0"], "none"),
        ([str(model_folder), "--host", "0.0.0.0"], "api_key_file must be given"),
        ([str(model_folder), "--replicas", "2"], "add --engine ray"),
    ):
        with pytest.raises(SystemExit):
            main(["serve", *arguments])
        assert said in capsys.readouterr().err
    place.close()
    assert list(tmp_path.iterdir()) == []


def test_states_of_prompts_outlive_the_server_on_disk(model_folder: Path, tmp_path: Path) -> None:
    config = ServeConfig(
        checkpoint=model_folder, port=0, sessions=str(tmp_path / "s"), cache_folder=tmp_path / "c", cache_bytes=0
    )
    prompt, said = "A prompt that is sent again tomorrow.", list[str]()
    for cached in (0, len(prompt)):  # the token that begins texts, and all of these but the last
        with running(config) as one:
            answer = one.client().completions.create(model="small", prompt=prompt, max_tokens=4, temperature=0)
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            assert answer.usage.prompt_tokens_details.cached_tokens == cached
            said.append(answer.choices[0].text)
            with pytest.raises(BlockingIOError, match="another process is writing to this folder"):
                Service(config)
    assert said[0] == said[1]
    with pytest.raises(ValueError, match="cache_folder must be left out with engine 'ray'"):
        ServeConfig(checkpoint=model_folder, engine="ray", cache_folder=tmp_path)
    with pytest.raises(ValueError, match="cache_folder must be given for cache_disk_bytes"):
        ServeConfig(checkpoint=model_folder, cache_disk_bytes=5)
    with pytest.raises(ValueError, match=r"step_engine must be one of eager, compile.*but is 'fast'"):
        ServeConfig(checkpoint=model_folder, step_engine="fast")


def test_a_tokenizer_whose_tokens_are_no_text_one_by_one_is_refused_at_the_start(tmp_path: Path) -> None:
    library = sentencepiece_style(decoder=decoders.BPEDecoder())
    tokenizer = SubwordTokenizer(library.to_str(), name="file", end_of_text="</s>")
    save_model(small_model("retnet", vocab_size=tokenizer.vocab_size), tmp_path / "m", tokenizer)
    with pytest.raises(ValueError, match="cannot become text one by one: what its decoder 'BPEDecoder' writes"):
        Service(ServeConfig(checkpoint=tmp_path / "m", port=0, sessions=str(tmp_path / "s")))
