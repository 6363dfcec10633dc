"""Two people never meet, and nobody takes more than their share."""

import logging
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from retentive.serving.config import Limits, ServeConfig
from retentive.serving.owners import read_keys
from serving.http import call
from serving.serving import Running, running

ONE, OTHER = "first-owner-secret-key", "second-owner-secret-key"


@pytest.fixture(scope="module")
def kept_apart(model_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("owners")
    keys = folder / "keys"
    keys.write_text(f"# people\n{ONE}\n\n{OTHER}\n")
    limits = Limits(
        max_body_bytes=20_000, max_state_bytes=30_000, max_prompt_tokens=200, max_new_tokens=3000, max_choices=3,
        max_rows=2, max_waiting=1, max_streams=2, max_states=3,
    )  # fmt: skip
    config = ServeConfig(checkpoint=model_folder, port=0, sessions=str(folder / "s"), api_key_file=keys, limits=limits)
    with running(config) as one:
        yield one


def completion(served: Running, key: str | None, **more: object):
    asked = {"model": "small", "prompt": "Once", "max_tokens": 2, **more}
    return call(served, "POST", "/v1/completions", asked, key=key)


def test_a_key_is_demanded(kept_apart: Running) -> None:
    for key in (None, "wrong", ""):
        answer = completion(kept_apart, key)
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert completion(kept_apart, ONE).status == 200
    for path in ("/healthz", "/readyz", "/"):
        assert call(kept_apart, "GET", path).status == 200
    assert call(kept_apart, "GET", "/metrics").status == 401


def test_states_of_another_are_not_there(kept_apart: Running) -> None:
    state = completion(kept_apart, ONE, return_state=True).json["choices"][0]["state"]["id"]
    for method, path in (
        ("GET", f"/v1/states/{state}"),
        ("GET", f"/v1/states/{state}/record"),
        ("POST", f"/v1/states/{state}/fork"),
        ("DELETE", f"/v1/states/{state}"),
    ):
        answer = call(kept_apart, method, path, key=OTHER)
        assert answer.status == 404
    assert completion(kept_apart, OTHER, state=state).status == 404
    asked = {"model": "small", "input": "a", "previous_response_id": state}
    assert call(kept_apart, "POST", "/v1/responses", asked, key=OTHER).status == 404
    assert call(kept_apart, "GET", "/v1/states", key=OTHER).json["data"] == []
    assert call(kept_apart, "DELETE", f"/v1/states/{state}", key=ONE).status == 200


def test_logs_have_owners_and_no_secrets(kept_apart: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        answer = completion(kept_apart, ONE, prompt="my private words", return_state=True).json
        state = answer["choices"][0]["state"]["id"]
        call(kept_apart, "GET", f"/v1/states/{state}", key=ONE)
        call(kept_apart, "GET", "/v1/states/guess", key=OTHER)
        call(kept_apart, "DELETE", f"/v1/states/{state}", key=ONE)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("retentive")]
    assert len({line.split("owner=")[1][:8] for line in lines if "owner=" in line}) == 2
    for secret in (ONE, OTHER, "private", state, "guess"):
        assert not any(secret in line for line in lines)


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"max_tokens": 3001}, 413, "max_tokens"),
        ({"n": 4}, 413, "n"),
        ({"prompt": ["a"] * 4}, 413, "n"),
        ({"prompt": "a" * 201}, 413, None),
        ({"prompt": "a" * 21_000}, 413, None),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": float("nan")}, 400, "temperature"),
        ({"stop": [""]}, 400, "stop"),
        ({"stop": ["a"] * 9}, 400, "stop"),
        ({"prompt": [5000]}, 400, "prompt"),
        ({"logit_bias": {"5000": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"1": 101}}, 400, "logit_bias"),
        ({"presence_penalty": 3}, 400, "presence_penalty"),
        ({"return_neighbours": True}, 400, "return_neighbours"),
        ({"colour": "red"}, 400, "colour"),
        ({"suffix": "end"}, 400, "suffix"),
        ({"state": "../../etc/passwd"}, 400, "state"),
    ],
    ids=str,
)
def test_what_is_beyond_a_limit_is_refused_by_name(kept_apart: Running, more: dict, status: int, param) -> None:
    answer = completion(kept_apart, ONE, **more)
    assert (answer.status, answer.json["error"]["param"]) == (status, param)


def test_text_that_is_no_unicode_and_bodies_that_are_no_json_are_refused(kept_apart: Running) -> None:
    bodies = [b'{"model": "small", "prompt": "\\ud800"}', b"[" * 15_000, b"{", b"[]", b"null", b"\xff", b""]
    for body in bodies:
        answer = call(kept_apart, "POST", "/v1/completions", body, key=ONE, **{"content-type": "application/json"})
        assert answer.status == 400, body[:20]
    assert call(kept_apart, "POST", "/v1/tokenize", {"text": "\ud800"}, key=ONE).status == 400
    # JSON that does not say it is: no object, and no fault of the server's.
    answer = call(kept_apart, "POST", "/v1/tokenize", b'{"text": "Once"}', key=ONE, **{"content-type": "text/plain"})
    assert answer.status == 400, answer.content


def test_a_body_without_a_length_is_measured_too(kept_apart: Running) -> None:
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", int(kept_apart.url.rsplit(":", 1)[1]), timeout=60)
    parts = (b"x" * 10_000 for _ in range(5))
    headers = {"authorization": f"Bearer {ONE}", "content-type": "application/json"}
    connection.request("POST", "/v1/completions", parts, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def begun(served: Running, head: str) -> socket.socket:
    """A connection on which a request's first lines were sent."""
    connection = socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1])), timeout=60)
    connection.sendall(head.replace("\n", "\r\n").encode())
    return connection


def test_no_body_is_read_of_those_who_have_no_key_or_more_requests_than_their_share(kept_apart: Running) -> None:
    head = "POST /v1/completions HTTP/1.1\nHost: localhost\nContent-Length: 15000\n"
    with begun(kept_apart, f"{head}\n") as connection:
        assert connection.recv(99).startswith(b"HTTP/1.1 401")
    with ExitStack() as stack:
        mine = f"{head}Authorization: Bearer {ONE}\n\n"
        waiting = [stack.enter_context(begun(kept_apart, mine)) for _ in range(4)]  # twice max_streams
        while (refused := call(kept_apart, "GET", "/v1/states", key=ONE)).status != 429:
            time.sleep(0.01)
        assert "4 of your requests are open" in refused.json["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        assert call(kept_apart, "GET", "/v1/states", key=OTHER).status == 200
        assert waiting
    while call(kept_apart, "GET", "/v1/states", key=ONE).status != 200:  # who leaves makes room
        time.sleep(0.01)


def test_a_body_that_does_not_come_is_waited_for_no_longer(
    kept_apart: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retentive.serving.gate.BODY_SECONDS", 0.1)
    for method, path in (("POST", "/v1/completions"), ("PUT", "/v1/states")):
        head = f"{method} {path} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {ONE}\nContent-Length: 9\n\n{{"
        with begun(kept_apart, head) as connection:
            assert connection.recv(99).startswith(b"HTTP/1.1 408")


def test_a_connection_on_which_no_request_comes_is_closed(kept_apart: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retentive.serving.server.HEAD_SECONDS", 0.1)
    whole = "GET /healthz HTTP/1.1\nHost: localhost\n\n"
    for head in ("", "GET /healthz HTTP/1.1\nHost:"):
        with begun(kept_apart, head) as connection:
            assert connection.recv(99) == b""
    with begun(kept_apart, whole) as connection:
        assert connection.recv(9999).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /hea")
        assert connection.recv(99) == b""
    endless = "GET /healthz HTTP/1.1\nHost: localhost\nX: " + "x" * 200_000
    with begun(kept_apart, endless) as connection:
        assert connection.recv(99).startswith(b"HTTP/1.1 400")


def test_too_many_connections_are_told_and_whether_the_server_lives(
    kept_apart: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retentive.serving.server.MAX_CONNECTIONS", 3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(begun(kept_apart, ""))
        while (refused := call(kept_apart, "GET", "/v1/states", key=ONE)).status == 200:
            time.sleep(0.01)
        assert (refused.status, refused.json["error"]["code"]) == (503, "crowded")
        assert int(refused.headers["retry-after"]) > 0
        assert call(kept_apart, "GET", "/healthz").status == 200
        for _ in range(3):
            stack.enter_context(begun(kept_apart, ""))
        assert begun(kept_apart, "").recv(9) == b""  # so that files can be opened
    while call(kept_apart, "GET", "/v1/states", key=ONE).status != 200:
        time.sleep(0.01)


def test_files_that_come_slowly_keep_nobody_else_waiting(kept_apart: Running) -> None:
    state = completion(kept_apart, OTHER, return_state=True).json["choices"][0]["state"]["id"]
    content = call(kept_apart, "GET", f"/v1/states/{state}", key=OTHER).content
    head = f"PUT /v1/states HTTP/1.1\nHost: localhost\nAuthorization: Bearer {ONE}\nContent-Length: 9000\n\n{{"
    with ExitStack() as stack:
        refused = None
        while refused is None or refused.status != 429:
            # One that comes while the quick one is looked at is refused itself, and another one takes its place.
            stack.enter_context(begun(kept_apart, head))
            time.sleep(0.01)
            refused = call(kept_apart, "PUT", "/v1/states", b"no state", key=ONE)
        assert "of your state files are coming" in refused.json["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        put = call(kept_apart, "PUT", "/v1/states", content, key=OTHER)
        assert put.status == 201
    for made in (state, put.json["id"]):
        call(kept_apart, "DELETE", f"/v1/states/{made}", key=OTHER)


def test_states_and_uploads_have_limits(kept_apart: Running) -> None:
    made = [completion(kept_apart, OTHER, return_state=True) for _ in range(4)]
    assert [answer.status for answer in made] == [200, 200, 200, 429]
    assert int(made[-1].headers["retry-after"]) > 0
    state = made[0].json["choices"][0]["state"]["id"]
    assert call(kept_apart, "POST", f"/v1/states/{state}/fork", key=OTHER).status == 429
    content = call(kept_apart, "GET", f"/v1/states/{state}", key=OTHER).content
    assert call(kept_apart, "PUT", "/v1/states", content, key=OTHER).status == 429
    # Another owner has room, but not for a file of any size.
    assert call(kept_apart, "PUT", "/v1/states", bytes(30_001), key=ONE).status == 413
    for answer in made[:3]:
        call(kept_apart, "DELETE", f"/v1/states/{answer.json['choices'][0]['state']['id']}", key=OTHER)


def test_rows_and_streams_have_limits(kept_apart: Running) -> None:
    client = kept_apart.client(ONE)
    streams = [
        client.completions.create(
            model="small", prompt="a", max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
        )
        for _ in range(2)
    ]
    try:
        mine, another = completion(kept_apart, ONE), completion(kept_apart, OTHER, n=2)
        for refused, words in ((mine, "of your requests"), (another, "lets 1 wait at most")):
            assert refused.status == 429
            assert words in refused.json["error"]["message"]
            assert int(refused.headers["retry-after"]) > 0
    finally:
        for stream in streams:
            stream.close()


def test_foreign_pages_and_hosts_are_refused(served: Running) -> None:
    # A name of elsewhere that leads to this machine, and what is no name.
    for host in ("evil.example", "[", "[::1", "\xbd", ""):
        assert call(served, "GET", "/v1/states", host=host).status == 403, host
    answer = call(served, "GET", "/v1/models", origin="http://evil.example")
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert call(served, "OPTIONS", "/v1/completions", **preflight).status == 405


def test_a_wider_host_needs_keys(tmp_path: Path, model_folder: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(ValueError, match="api_key_file must be given for host"):
            ServeConfig(checkpoint=model_folder, host=host)
    assert ServeConfig(checkpoint=model_folder, host="::1").is_loopback


@pytest.mark.parametrize(
    ("text", "match"), [("", "at least one key"), ("short\n", "line 1"), ("# a\nwith a space in it\n", "line 2")]
)
def test_keys_that_cannot_be_are_refused_without_being_shown(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ValueError, match=match) as caught:
        read_keys(tmp_path / "keys")
    assert "space in it" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="api_key_file"):
        read_keys(tmp_path / "none")


def test_keys_are_read_as_editors_write_them(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(
        b"\xef\xbb\xbf# ours\r\n\r\n  first-key-of-20-letters \r\n\t\nsecond-key-of-letters"
    )
    assert read_keys(tmp_path / "keys") == ("first-key-of-20-letters", "second-key-of-letters")
    (tmp_path / "keys").write_bytes(b"a-key-of-sixteen\x0bcharacters-twice")  # one key, and none that can be sent
    with pytest.raises(ValueError, match="printable ASCII characters and no space, but line 1"):
        read_keys(tmp_path / "keys")
    (tmp_path / "keys").write_bytes("a-key-of-sixteen".encode("utf-16"))
    with pytest.raises(ValueError, match="api_key_file must be UTF-8, but byte 0 of"):
        read_keys(tmp_path / "keys")


def test_prefixes_of_another_are_not_found(kept_apart: Running) -> None:
    prompt = "A prompt that both of them send, word for word."
    cached = [
        completion(kept_apart, key, prompt=prompt).json["usage"]["prompt_tokens_details"]["cached_tokens"]
        for key in (ONE, OTHER, ONE)
    ]
    assert cached[:2] == [0, 0]
    assert cached[2] > 16
