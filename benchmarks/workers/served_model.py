"""Clients of a server beside them: `retentive serve`, a loop of ``generate``, or ``transformers serve``."""

import atexit
import functools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks.racing.worker import Work

PROMPT = "The quick brown fox jumps over the lazy dog. "


class Server:
    """A server, and requests to it."""

    def __init__(self, kind: str, model: str, sessions: str) -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self.port = place.getsockname()[1]
        self._is_theirs = kind.startswith("transformers")
        self.name = model if self._is_theirs else Path(model).name
        command = _command(kind, model, self.port, sessions)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        atexit.register(self._process.kill)
        while True:
            try:
                self.ask("GET", "/health" if self._is_theirs else "/readyz", None)
                break
            except ConnectionError:
                if self._process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with code {self._process.returncode}") from None
                time.sleep(0.1)

    def ask(self, method: str, path: str, asked: Mapping[str, Any] | None) -> bytes:
        """One request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=3600)
        body = None if asked is None else json.dumps(asked)
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status >= 400:
            raise RuntimeError(content.decode())
        return content

    def completion(self, *, max_tokens: int, **more: Any) -> dict[str, Any]:
        """What is asked for a greedy text of so many tokens."""
        asked = {"model": self.name, "temperature": 0, "max_tokens": max_tokens, **more}
        if not self._is_theirs:
            return {**asked, "ignore_eos": True}
        length = {"min_new_tokens": max_tokens, "max_new_tokens": max_tokens}
        return {**asked, "generation_config": json.dumps({"do_sample": False, "pad_token_id": 0, **length})}


def _command(kind: str, model: str, port: int, sessions: str) -> list[str]:
    if kind == "retentive":
        command = [sys.executable, "-m", "retentive", "serve", model, "--port", str(port)]
        return [*command, "--sessions", sessions, "--limits.max_states", "100000"]
    if kind.startswith("transformers"):
        command = [str(Path(sys.executable).with_name("transformers")), "serve", model, "--port", str(port)]
        batching = ["--continuous-batching"] if kind == "transformers batched" else []
        return [*command, "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32", *batching]
    return [sys.executable, "-m", "benchmarks.workers.plain_server", model, str(port)]


def works(*, kind: str, model: str, sessions: str) -> dict[str, Callable[..., Work]]:
    """The works of one contestant."""
    server = Server(kind, model, sessions)
    return {
        "streams": functools.partial(_streams, server),
        "returning": functools.partial(_returning, server),
    }


def _streams(server: Server, *, count: int, tokens: int) -> Work:
    """So many clients at once, each of which streams a text."""

    def one(number: int) -> None:
        asked = server.completion(prompt=f"{number}. {PROMPT}", max_tokens=tokens, stream=True)
        server.ask("POST", "/v1/completions", asked)

    def run() -> None:
        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return Work(run=run, units=count * tokens)


def _returning(server: Server, *, tokens: int) -> Work:
    """The first token of a session that comes back after a text of so many tokens."""
    text = (PROMPT * (tokens // len(PROMPT) + 1))[:tokens]
    asked = server.completion(prompt=text, max_tokens=1, return_state=True)
    state = json.loads(server.ask("POST", "/v1/completions", asked))["choices"][0]["state"]

    def run() -> None:
        more = server.completion(prompt=" And then?", max_tokens=1, stream=True, state=state["id"])
        server.ask("POST", "/v1/completions", more)

    return Work(run=run, facts={"state_bytes": state["bytes"], "text_tokens": state["tokens"]})
