"""Places of stored states: a folder and Redis hold the same, whole or not at all."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from retentive.errors import DamagedFileError, MismatchError
from retentive.serving.sessions.opening import open_place
from retentive.serving.sessions.record import StatePlace, StateRecord, new_id


@pytest.fixture(scope="module")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    program = shutil.which("redis-server")
    if program is None:
        said = "redis-server is not installed (Debian: apt-get install redis-server)"
        if os.environ.get("RETENTIVE_CI"):
            pytest.fail(said)
        pytest.skip(said)
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "socket"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not socket.exists():
        assert process.poll() is None
        time.sleep(0.01)
    yield f"unix://{socket}?db=0"
    process.kill()
    process.wait()


@pytest.fixture(params=["folder", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "sessions")
    address = request.getfixturevalue("redis_address")
    import redis

    redis.Redis.from_url(address).flushall()
    return address


@pytest.fixture
def place(address: str) -> Generator[StatePlace]:
    opened = open_place(address)
    yield opened
    opened.close()


def record_of(content: bytes, owner: str = "one", created: float = 1.5, parent: str | None = None) -> StateRecord:
    return StateRecord(
        id=new_id("state"), owner=owner, created=created, parent=parent, kind="completion", weights="w", tokens=3,
        size=len(content), sha256=hashlib.sha256(content).hexdigest(), turn={"output": "é"},
    )  # fmt: skip


def test_what_is_stored_comes_back_in_another_process_too(place: StatePlace, address: str) -> None:
    record = record_of(b"\x00\xffbytes")
    assert place.put(record, b"\x00\xffbytes", 5)
    again = open_place(address)
    assert again.record("one", record.id) == record
    assert again.content(record) == b"\x00\xffbytes"
    assert again.size() == (1, 7)
    assert again.record("other", record.id) is None
    assert again.record("one", "state_0") is None
    again.close()


def test_records_come_newest_first_and_in_pages(place: StatePlace) -> None:
    records = [record_of(b"x", created=float(number)) for number in range(5)]
    for record in records:
        place.put(record, b"x", 9)
    place.put(record_of(b"y", owner="other"), b"y", 9)
    first = place.records("one", newest=2)
    assert [record.id for record in first] == [records[4].id, records[3].id]
    assert first[0].turn == {}  # lists are short
    rest = place.records("one", newest=9, before=first[-1].created)
    assert [record.id for record in rest] == [records[2].id, records[1].id, records[0].id]
    assert (place.count("one"), place.count("other"), place.count("nobody")) == (5, 1, 0)


def test_no_more_than_the_most_are_kept(place: StatePlace) -> None:
    assert [place.put(record_of(b"x"), b"x", 2) for _ in range(3)] == [True, True, False]
    assert place.size() == (2, 2)
    assert place.put(record_of(b"x", owner="other"), b"x", 2)


def test_only_the_owner_deletes(place: StatePlace) -> None:
    record = record_of(b"x")
    place.put(record, b"x", 2)
    assert not place.delete("other", record.id)
    assert place.delete("one", record.id)
    assert not place.delete("one", record.id)
    assert place.content(record) is None
    assert place.size() == (0, 0)
    assert place.records("one", newest=5) == []


def test_bytes_that_were_changed_are_refused(tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    record = record_of(b"content")
    place.put(record, b"content", 2)
    (file,) = (tmp_path / "states").iterdir()
    for changed in (b"Content", b"cont", b""):
        file.write_bytes(changed)
        with pytest.raises(DamagedFileError, match="other bytes than were stored"):
            place.content(record)
    file.unlink()
    with pytest.raises(DamagedFileError, match="0 of 7"):
        place.content(record)
    place.close()


WRITER = """
import hashlib, sys
from retentive.serving.sessions.opening import open_place
from serving.test_sessions import record_of
place = open_place(sys.argv[1])
for number in range(10**6):
    content = bytes([number % 256]) * 20000
    record = record_of(content, created=float(number))
    place.put(record, content, 10**9)
    print(record.id, flush=True)
"""


def test_a_kill_loses_nothing_that_was_stored_and_leaves_nothing_half(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],  # from where it imports what tests share
        )
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(15)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().split()
        process.wait()
        place = open_place(str(tmp_path))
        records = {record.id: record for record in place.records("one", newest=10**6)}
        assert set(told) <= set(records)
        for record in records.values():
            place.content(record)
        place.close()


def test_what_a_kill_left_over_is_removed_when_it_is_old(tmp_path: Path) -> None:
    open_place(str(tmp_path)).close()
    files = tmp_path / "states"
    young, old, half = files / "a.safetensors", files / "b.safetensors", files / "c.safetensors.tmp"
    for path in (young, old, half):
        path.write_bytes(b"x")
    for path in (old, half):
        os.utime(path, (1, 1))
    place = open_place(str(tmp_path))
    assert sorted(path.name for path in files.iterdir()) == ["a.safetensors"]
    place.close()


def test_addresses_of_other_kinds_and_versions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"begin with redis://, but begins with http://"):
        open_place("http://localhost")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1 does not answer") as caught:
        open_place("redis://:secret@127.0.0.1:1/0")
    assert "secret" not in str(caught.value)
    place = open_place(str(tmp_path))
    place.close()
    import sqlite3

    with sqlite3.connect(tmp_path / "index.sqlite") as index:
        index.execute("PRAGMA user_version = 9")
    with pytest.raises(MismatchError, match="format version 9"):
        open_place(str(tmp_path))
