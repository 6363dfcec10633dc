"""Two replicas through Ray Serve: killing one loses no finished turn, and the next request goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from retentive.serving.config import ServeConfig
from retentive.serving.sessions.opening import open_place
from serving.http import Answer, call

pytestmark = pytest.mark.replicas


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


@pytest.fixture
def cluster(model_folder: Path, tmp_path: Path) -> Generator[tuple[str, ServeConfig]]:
    import ray
    from ray import serve

    from retentive.serving.replicas import begin

    config = ServeConfig(
        checkpoint=model_folder, port=free_port(), sessions=str(tmp_path / "s"), replicas=2, engine="ray"
    )
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        begin(config, cpus_each=0.5)
        yield f"http://127.0.0.1:{config.port}", config
    finally:
        serve.shutdown()
        ray.shutdown()


def answer(url: str, **more: object) -> Answer:
    asked = {"model": "small", "input": "Hello", "max_output_tokens": 4, "temperature": 0, **more}
    return call(url, "POST", "/v1/responses", asked)


def replicas() -> list[int]:
    """Process ids of the replicas that this test has started."""
    parents: dict[int, int] = {}
    names: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int(fields[1])
        except OSError:  # it has ended meanwhile
            continue

    def is_ours(process: int) -> bool:
        while process in parents:
            if process == os.getpid():
                return True
            process = parents[process]
        return False

    return [process for process, name in names.items() if b"ServeReplica" in name and is_ours(process)]


def test_killing_a_replica_mid_stream_loses_no_finished_turn(cluster: tuple[str, ServeConfig]) -> None:
    import openai

    url, config = cluster
    first = answer(url).json
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
    streams = [
        iter(
            client.responses.create(
                model="small", input="Go on", max_output_tokens=4096, previous_response_id=first["id"], stream=True,
                extra_body={"ignore_eos": True},
            )
        )
        for _ in range(4)
    ]  # fmt: skip
    created = [next(stream) for stream in streams]
    # Whichever replica the cancels reach, and whichever write the answers.
    for _ in range(2):
        assert client.responses.cancel(created.pop().response.id).status == "cancelled"  # pyright: ignore
        assert list(streams.pop())[-1].response.status == "cancelled"  # pyright: ignore
    victim = replicas()[0]
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (again := answer(url, input="And?", previous_response_id=first["id"])).status != 200:
        assert time.monotonic() < deadline, again.content
        time.sleep(0.2)
    # A state is the same on either replica.
    texts = {
        answer(url, input="And?", previous_response_id=first["id"]).json["output"][0]["content"][0]["text"]
        for _ in range(4)
    }
    assert texts == {again.json["output"][0]["content"][0]["text"]}
    place = open_place(config.sessions_place)
    assert place.record("local", first["id"]) is not None
    for record in place.records("local", newest=100):
        place.content(record)
    place.close()


def test_sigterm_ends_answers_that_do_not_finish_and_stores_them(model_folder: Path, tmp_path: Path) -> None:
    import openai

    port, sessions = free_port(), tmp_path / "s"
    command = [sys.executable, "-m", "retentive", "serve", str(model_folder), "--engine", "ray", "--port", str(port)]
    command += ["--sessions", str(sessions), "--limits.max-new-tokens", "10000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert "is served" in process.stdout.readline()
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
        stream = iter(
            client.responses.create(
                model="small", input="Hello", max_output_tokens=10**7, stream=True, extra_body={"ignore_eos": True}
            )
        )
        identifier = next(stream).response.id  # pyright: ignore
        process.send_signal(signal.SIGTERM)
        assert list(stream)[-1].response.status == "cancelled"  # pyright: ignore
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    place = open_place(str(sessions))
    assert place.record("local", identifier) is not None
    place.close()
