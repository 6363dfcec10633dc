"""Many clients for a long time, and a server that is killed now and then: ``make soak``.

Clients send completions, conversations, turns after stored states, forks, cancels and files of states, at random.
Every answer must be what ``generate`` gives alone, no status is 5xx, every turn that was answered is there after a
kill, every stored state verifies, and the server's memory does not grow.
"""

import argparse
import hashlib
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from retentive import Sampling, generate, load_model
from retentive.serving.sessions.codec import from_bytes
from retentive.serving.sessions.opening import open_place
from retentive.text.chat_template import ChatTemplate, load_chat_template
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import encode_prompt
from serving.http import call
from serving.serving import save_small_model

TURNS = ("Hello", "And then?", "Why?", "Say more.")
TOKENS = (3, 24)
STOPS = (None, None, "e", "an", "\n")
MOST_GROWTH = 1.1
LONG_LIFE = 100
"""Measurements of memory, five a second, from which on its growth is judged."""
BROKEN = (OSError, HTTPException, ValueError)
"""What a client meets when the server is killed: no connection, or an answer that breaks off."""


@dataclass(frozen=True)
class Question:
    """A prompt and how it is gone on with."""

    prompt: str
    count: int
    seed: int | None
    stop: str | None
    n: int

    @property
    def body(self) -> dict[str, Any]:
        """The request."""
        sampling = {"temperature": 0} if self.seed is None else {"temperature": 1, "seed": self.seed}
        ends = {} if self.stop is None else {"stop": self.stop}
        return {"model": "small", "prompt": self.prompt, "max_tokens": self.count, "n": self.n, **sampling, **ends}


class Expected:
    """What `generate` gives alone; each question is asked of it once."""

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = load_model(folder), load_tokenizer(folder)
        self.template: ChatTemplate = load_chat_template(folder, tokenizer=self.tokenizer)
        self._known: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def completions(self, asked: Question) -> list[str]:
        """The texts after a prompt."""
        with self._lock:
            if asked not in self._known:
                sampling = Sampling() if asked.seed is None else Sampling(temperature=1.0, seed=asked.seed)
                ids = encode_prompt(self.tokenizer, asked.prompt)
                ends = () if asked.stop is None else (asked.stop,)
                self._known[asked] = self._generate([ids] * asked.n, asked.count, sampling, ends).text
            return list(self._known[asked])

    def turns(self, counts: tuple[int, ...]) -> str:
        """The last answer of a conversation whose answers have so many tokens."""
        with self._lock:
            return self._conversation(counts)[0]

    def _conversation(self, counts: tuple[int, ...]) -> tuple[str, Any]:
        if counts not in self._known:
            said = [{"role": "user", "content": TURNS[len(counts) - 1]}]
            if len(counts) == 1:
                self._known[counts] = self._text(self.template.encode(said), counts[0], Sampling())
            else:
                text, result = self._conversation(counts[:-1])
                before = [{"role": "user", "content": TURNS[len(counts) - 2]}, {"role": "assistant", "content": text}]
                ids = self.template.encode_after_answer(before, said)
                state = result.state.model if result.stopped[0] else result.state
                self._known[counts] = self._text(ids, counts[-1], Sampling(), state)
        return self._known[counts]

    def _text(self, ids: list[int], count: int, sampling: Sampling, state: Any = None) -> tuple[str, Any]:
        result = self._generate([ids], count, sampling, state=state)
        return result.text[0], result

    def _generate(self, rows: Any, count: int, sampling: Sampling, stops: Any = (), state: Any = None) -> Any:
        return generate(
            self.model,
            rows,
            max_new_tokens=count,
            sampling=sampling,
            stop_tokens=(self.tokenizer.end_of_text,),
            stop_strings=stops,
            tokenizer=self.tokenizer,
            state=state,
        )


@dataclass
class Report:
    """What happened."""

    counts: Counter[str] = field(default_factory=Counter[str])
    faults: list[str] = field(default_factory=list[str])
    told: set[str] = field(default_factory=set[str])
    memory: list[list[int]] = field(default_factory=list[list[int]])
    states: int = 0

    @property
    def growth(self) -> float:
        """Memory at the end of the longest life of the server, over that after a third of it."""
        longest = max(self.memory, key=len)
        third = len(longest) // 3
        return statistics.median(longest[-max(1, third) :]) / statistics.median(longest[third : 2 * third + 1])

    def lines(self) -> list[str]:
        """For people."""
        peak = max(max(life, default=0) for life in self.memory) / 2**20
        return [
            *(f"{name}: {count:,}" for name, count in sorted(self.counts.items())),
            f"answers with status 5xx: {sum(self.counts[f'status {status}'] for status in range(500, 600)):,}",
            f"stored states, all verified: {self.states:,}; turns that were answered and are there: {len(self.told):,}",
            f"resident memory: {peak:.0f} MiB at most; {self.growth:.3f}x from the middle to the last third of a life",
            f"faults: {len(self.faults)}",
            *self.faults[:20],
        ]


class Soak:
    """A server that is killed and started again, and its clients."""

    def __init__(self, folder: Path, *, clients: int, pause: float = 0.0, seed: int = 0) -> None:
        self.model, self.sessions = save_small_model(folder / "small"), str(folder / "sessions")
        self.expected, self.report = Expected(self.model), Report()
        self._clients, self._pause, self._seed = clients, pause, seed
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self._port = place.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = (folder / "log").open("w")
        self._known: list[tuple[str, tuple[int, ...]]] = []
        self._ends = 0.0

    def run(self, seconds: float, kills: int) -> Report:
        """Let clients ask for so long, and kill the server so often."""
        try:
            self._run(seconds, kills)
        finally:
            self._server.kill()
        self._verify()
        return self.report

    def _run(self, seconds: float, kills: int) -> None:
        # Daemons, so that nobody waits for them where the soak is ended.
        threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(self._clients)
        ]
        server = self._start()
        begun, killed = time.monotonic(), 0
        self._ends = begun + seconds
        for thread in threads:
            thread.start()
        while time.monotonic() < self._ends:
            time.sleep(0.2)
            self.report.memory[-1].append(_resident(server.pid))
            if killed < kills and time.monotonic() - begun > (killed + 1) * seconds / (kills + 1):
                server.send_signal(signal.SIGKILL)
                server.wait()
                killed += 1
                self.report.counts["kills"] += 1
                down = time.monotonic()
                server = self._start()
                down = time.monotonic() - down  # a second without a server does not count
                begun, self._ends = begun + down, self._ends + down
        for thread in threads:
            thread.join()
        server.send_signal(signal.SIGTERM)
        server.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "retentive", "serve", str(self.model), "--port", str(self._port)]
        command += ["--sessions", self.sessions, "--limits.max_states", "1000000", "--limits.max_waiting", "256"]
        command += ["--limits.max_streams", "256"]
        process = self._server = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self.report.memory.append([])
        while process.poll() is None:
            try:
                if call(self.url, "GET", "/readyz").status == 200:
                    break
            except BROKEN:
                time.sleep(0.1)
        return process

    def _client(self, number: int) -> None:
        chance = random.Random(self._seed * 1000 + number)
        acts = [self._complete, self._stream, self._chat, self._leave, self._cancel, self._fork, self._file]
        acts += [self._turn] * 3
        while time.monotonic() < self._ends:
            try:
                chance.choice(acts)(chance)
                time.sleep(chance.uniform(0, 2 * self._pause))
            except BROKEN:
                self.report.counts["broken by a kill"] += 1
                time.sleep(0.2)

    def _complete(self, chance: random.Random) -> None:
        asked = self._question(chance)
        answer = self._ask("/v1/completions", asked.body)
        if answer is not None:
            texts = [choice["text"] for choice in answer["choices"]]
            self._compare(texts, self.expected.completions(asked), "completion")

    def _stream(self, chance: random.Random) -> None:
        asked = self._question(chance)
        events = self._events("/v1/completions", asked.body)
        if events is None:
            return
        if events[-1:] != ["[DONE]"]:
            raise HTTPException("broken off")
        texts = [""] * asked.n
        for choice in (json.loads(event)["choices"][0] for event in events[:-1]):
            texts[choice["index"]] += choice["text"]
        self._compare(texts, self.expected.completions(asked), "stream")

    def _chat(self, chance: random.Random) -> None:
        count = chance.choice(TOKENS)
        said = [{"role": "user", "content": TURNS[0]}]
        answer = self._ask(
            "/v1/chat/completions", {"model": "small", "messages": said, "max_tokens": count, "temperature": 0}
        )
        if answer is not None:
            self._compare(answer["choices"][0]["message"]["content"], self.expected.turns((count,)), "conversation")

    def _leave(self, chance: random.Random) -> None:
        """Ask for a long text and leave."""
        body = json.dumps({"model": "small", "prompt": "x", "max_tokens": 2000, "stream": True, "ignore_eos": True})
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as place:
            place.sendall(head.encode() + body.encode())
            place.recv(chance.randint(1, 4096))
        self.report.counts["clients that left"] += 1

    def _cancel(self, chance: random.Random) -> None:
        """Begin an answer and cancel it by its id: it ends with a begin of what it would have been."""
        asked = {"model": "small", "input": TURNS[0], "max_output_tokens": TOKENS[-1], "temperature": 0, "stream": True}
        head = {"content-type": "application/json"}
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("POST", "/v1/responses", json.dumps(asked), head)
        answer = connection.getresponse()
        if self._is_fine(answer.status):
            first = next(line for line in answer if line.startswith(b"data: "))
            identifier = json.loads(first[6:])["response"]["id"]
            self._is_fine(call(self.url, "POST", f"/v1/responses/{identifier}/cancel").status)
            last = answer.read().rpartition(b"data: ")[2]
            if not last.endswith(b"\n\n"):
                raise HTTPException("broken off")
            response = json.loads(last)["response"]
            text = response["output"][0]["content"][0]["text"]
            self._compare(text, self.expected.turns((TOKENS[-1],))[: len(text)], "cancelled answer")
        connection.close()

    def _fork(self, chance: random.Random) -> None:
        """Fork a stored state; later turns go on from both."""
        if self._known:
            identifier, counts = chance.choice(self._known)
            forked = self._ask(f"/v1/states/{identifier}/fork", {})
            if forked is not None:
                self.report.counts["forks"] += 1
                self.report.told.add(forked["id"])
                self._known.append((forked["id"], counts))

    def _turn(self, chance: random.Random) -> None:
        """A turn after one of the stored states, or a first one: several go on from one state, which forks it."""
        before: tuple[int, ...] = ()
        asked: dict[str, Any] = {"model": "small", "temperature": 0}
        if self._known and chance.random() < 0.8:
            identifier, before = chance.choice(self._known)
            asked["previous_response_id"] = identifier
        counts = (*before, chance.choice(TOKENS))
        asked |= {"input": TURNS[len(counts) - 1], "max_output_tokens": counts[-1]}
        answer = self._ask("/v1/responses", asked)
        if answer is None:
            return
        self._compare(answer["output"][0]["content"][0]["text"], self.expected.turns(counts), "turn")
        self.report.told.add(answer["id"])
        if len(counts) < len(TURNS):
            self._known.append((answer["id"], counts))

    def _file(self, chance: random.Random) -> None:
        if not self._known:
            return
        identifier, _ = chance.choice(self._known)
        record = call(self.url, "GET", f"/v1/states/{identifier}/record")
        file = call(self.url, "GET", f"/v1/states/{identifier}")
        if self._is_fine(record.status) and self._is_fine(file.status):
            self._compare(hashlib.sha256(file.content).hexdigest(), record.json["sha256"], "file")

    @staticmethod
    def _question(chance: random.Random) -> Question:
        prompt = f"question {chance.randrange(20)}" + "." * chance.randrange(3) * 40
        seed, stop = chance.choice([None, 1, 2]), chance.choice(STOPS)
        return Question(prompt, chance.choice(TOKENS), seed, stop, chance.choice([1, 1, 2]))

    def _events(self, path: str, asked: dict[str, Any]) -> list[str] | None:
        answer = call(self.url, "POST", path, {**asked, "stream": True})
        if not self._is_fine(answer.status):
            return None
        return [line[6:] for line in answer.content.decode().splitlines() if line.startswith("data: ")]

    def _ask(self, path: str, asked: dict[str, Any]) -> Any:
        answer = call(self.url, "POST", path, asked)
        return answer.json if self._is_fine(answer.status) else None

    def _is_fine(self, status: int) -> bool:
        self.report.counts[f"status {status}"] += 1
        if status not in (200, 201, 429):
            self.report.faults.append(f"status {status}")
        return status in (200, 201)

    def _compare(self, got: object, wanted: object, what: str) -> None:
        self.report.counts[f"{what}s that are right"] += got == wanted
        if got != wanted:
            self.report.faults.append(f"{what}: {got!r} in place of {wanted!r}")

    def _verify(self) -> None:
        """Every turn that was answered is there, and every state is whole and this model's."""
        if max(map(len, self.report.memory)) > LONG_LIFE and self.report.growth > MOST_GROWTH:
            self.report.faults.append(f"memory grew {self.report.growth:.3f}x")
        place = open_place(self.sessions)
        records = place.records("local", newest=10**7)
        missing = self.report.told - {record.id for record in records}
        self.report.faults += [f"lost turn {identifier}" for identifier in missing]
        for record in records:
            content = place.content(record)
            assert content is not None
            from_bytes(content, self.expected.model)
            self.report.states += 1
        place.close()
        # A file without a record is left over from a kill; it is whole all the same.
        for path in Path(self.sessions).rglob("*.safetensors"):
            from_bytes(path.read_bytes(), self.expected.model)


def _resident(process_id: int) -> int:
    """Bytes of resident memory."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Run the soak and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a client waits after each answer")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends, too
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), clients=given.clients, pause=given.pause)
        report = soak.run(60 * given.minutes, given.kills)
    print("\n".join(report.lines()))
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
