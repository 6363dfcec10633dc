"""Places of stored states: a folder and Redis hold the same, whole or not at all."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from retentive.errors import DamagedFileError, MismatchError
from retentive.serving.sessions.folder import StateFolder
from retentive.serving.sessions.opening import open_place
from retentive.serving.sessions.record import StatePlace, StateRecord, new_id


def start_redis(folder: Path, *options: str) -> tuple[str, subprocess.Popen[bytes]]:
    """A Redis that listens on a socket in a folder."""
    program = shutil.which("redis-server")
    if program is None:
        said = "redis-server is not installed (Debian: apt-get install redis-server)"
        if os.environ.get("RETENTIVE_CI"):
            pytest.fail(said)
        pytest.skip(said)
    socket = folder / "socket"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not socket.exists():
        assert process.poll() is None
        time.sleep(0.01)
    return f"unix://{socket}?db=0", process


@pytest.fixture(scope="module")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    address, process = start_redis(tmp_path_factory.mktemp("redis"))
    yield address
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
    assert [place.has_room("one", most) for most in (5, 6)] == [False, True]
    assert [place.has_room("other", most) for most in (1, 2)] == [False, True]
    assert place.has_room("nobody", 1)


def test_no_more_than_the_most_are_kept(place: StatePlace) -> None:
    assert [place.put(record_of(b"x"), b"x", 2) for _ in range(3)] == [True, True, False]
    assert place.size() == (2, 2)
    assert place.put(record_of(b"x", owner="other"), b"x", 2)


def test_a_command_that_is_sent_again_stores_once(redis_address: str) -> None:
    place = open_place(redis_address)
    record = record_of(b"x", owner="sent again")
    before = place.size()[0]
    assert [place.put(record, b"x", 1) for _ in range(2)] == [True, True]
    assert place.size()[0] == before + 1
    place.close()


def test_redis_that_goes_and_comes_back_is_found_again(tmp_path: Path) -> None:
    address, process = start_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    place = open_place(address)
    record = record_of(b"x")
    place.put(record, b"x", 9)
    process.kill()
    process.wait()
    with pytest.raises(ConnectionError, match="does not answer"):
        place.record("one", record.id)
    (tmp_path / "socket").unlink(missing_ok=True)
    address, process = start_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    assert place.content(record) == b"x"
    assert place.put(record_of(b"y"), b"y", 9)  # its scripts are gone with it
    place.close()
    process.kill()
    process.wait()


def test_a_redis_that_is_full_says_so_and_loses_nothing(redis_address: str) -> None:
    import redis

    client, place = redis.Redis.from_url(redis_address), open_place(redis_address)
    kept, later = record_of(b"x", owner="full"), record_of(b"y", owner="full")
    place.put(kept, b"x", 9)
    client.config_set("maxmemory", 1)
    for act in (lambda: place.put(later, b"y", 9), place.check):  # it answers, and stores nothing
        with pytest.raises(ConnectionError, match=r"refuses it .*maxmemory"):
            act()
    assert place.content(kept) == b"x"
    assert place.delete("full", kept.id)  # makes room
    client.config_set("maxmemory", 0)
    place.check()
    assert place.put(later, b"y", 9)
    assert [record.id for record in place.records("full", newest=9)] == [later.id]
    place.close()


def test_what_redis_lost_is_forgotten_and_takes_no_room(redis_address: str) -> None:
    import redis

    client, place = redis.Redis.from_url(redis_address), open_place(redis_address)
    records = [record_of(b"x", owner="lost", created=float(number)) for number in range(5)]
    for record in records:
        place.put(record, b"x", 5)
    for record in records[1::2]:
        client.delete(f"retentive:state:lost:{record.id}")
    assert place.record("lost", records[1].id) is None
    # A page is as long as it was asked to be, or else whoever reads pages stops at it.
    assert [record.id for record in place.records("lost", newest=3)] == [records[4].id, records[2].id, records[0].id]
    client.delete(f"retentive:state:lost:{records[0].id}")
    assert place.has_room("lost", 3)
    assert [place.delete("lost", record.id) for record in records] == [False, False, True, False, True]
    place.close()


DAMAGED = ["{}", '{"id": 5}', "[" * 10**5, "null", "\x00"]


def test_a_damaged_record_is_told_and_hides_no_other(place: StatePlace, address: str, tmp_path: Path) -> None:
    records = [record_of(b"x", created=float(number)) for number in range(len(DAMAGED) + 2)]
    for record in records:
        place.put(record, b"x", 99)
    swapped, damaged = records[0], records[1:-1]
    texts = [*DAMAGED, swapped.to_json()[0]]  # the last one of another state
    for record, text in zip([*damaged, records[-1]], texts, strict=True):
        if address == str(tmp_path / "sessions"):
            with sqlite3.connect(tmp_path / "sessions" / "index.sqlite") as index:
                index.execute("UPDATE states SET record = ? WHERE id = ?", (text, record.id))
        else:
            import redis

            redis.Redis.from_url(address).hset(f"retentive:state:one:{record.id}", "record", text)
        with pytest.raises(DamagedFileError, match=f"{record.id} is no record of a state: delete it"):
            place.record("one", record.id)
    assert [record.id for record in place.records("one", newest=1)] == [swapped.id]
    assert all(place.delete("one", record.id) for record in records)


def test_a_foreign_key_in_place_of_a_state_is_told_and_deleted(redis_address: str) -> None:
    import redis

    client, place = redis.Redis.from_url(redis_address), open_place(redis_address)
    record, other = record_of(b"x", owner="foreign"), record_of(b"y", owner="foreign", created=1.0)
    place.put(record, b"x", 9)
    place.put(other, b"y", 9)
    client.set(f"retentive:state:foreign:{record.id}", "foreign")
    for act in (lambda: place.record("foreign", record.id), lambda: place.content(record)):
        with pytest.raises(DamagedFileError, match="is no stored state in Redis: delete it"):
            act()
    assert [one.id for one in place.records("foreign", newest=1)] == [other.id]
    assert place.delete("foreign", record.id)
    client.set("retentive:total", "foreign")  # is only shown
    assert place.put(record, b"x", 9)
    assert place.delete("foreign", record.id)
    client.set("retentive:states:foreign", "foreign")
    with pytest.raises(ConnectionError, match="refuses it"):
        place.put(record, b"x", 9)
    assert place.record("foreign", record.id) is None
    place.close()


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


def test_a_full_disk_loses_the_new_state_alone_and_no_more(tmp_path: Path) -> None:
    place = StateFolder(tmp_path)
    kept = record_of(b"x")
    place.put(kept, b"x", 9)
    pages = place._index.execute("PRAGMA page_count").fetchone()[0]
    place._index.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        place.put(replace(record_of(b"y"), turn={"output": "long" * 10**5}), b"y", 9)
    place._index.execute("PRAGMA max_page_count = 1000000")
    assert [path.stem for path in (tmp_path / "states").iterdir()] == [kept.id]
    later = record_of(b"z")
    assert place.put(later, b"z", 9)  # as soon as there is room again
    assert {record.id for record in place.records("one", newest=9)} == {kept.id, later.id}
    place.check()
    shutil.rmtree(tmp_path / "states")
    with pytest.raises(FileNotFoundError):
        place.check()
    place.close()


def test_a_full_disk_gets_room_by_deleting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = StateFolder(tmp_path)
    records = [record_of(b"x") for _ in range(2)]
    for record in records:
        place.put(record, b"x", 9)
    writing, errors = place._writing, [sqlite3.OperationalError("database or disk is full")]

    def failing_once():
        if errors:
            raise errors.pop()
        return writing()

    monkeypatch.setattr(place, "_writing", failing_once)
    assert place.delete("one", records[0].id)
    assert place.records("one", newest=9) == [replace(records[1], turn={})]
    errors.append(sqlite3.OperationalError("database is locked"))
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        place.delete("one", records[1].id)
    assert place.content(records[1]) == b"x"
    place.close()


def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"no index" * 1000)
    with pytest.raises(DamagedFileError, match=r"index.sqlite is no index of stored states"):
        open_place(str(tmp_path))
    (tmp_path / "b" / "index.sqlite").mkdir(parents=True)
    for folder in (tmp_path / "b", tmp_path / "index.sqlite" / "c", Path("/proc/none")):
        with pytest.raises(OSError, match=r"states cannot be stored there .*give another folder to sessions"):
            open_place(str(folder))


def test_words_that_answers_shall_end_are_taken_once(place: StatePlace, address: str) -> None:
    other = open_place(address)
    place.ask_to_end("one", "resp_1")
    assert other.is_asked_to_end("one", "resp_1")
    assert not other.is_asked_to_end("two", "resp_1")
    asked = [("one", "resp_0"), ("one", "resp_1"), ("two", "resp_1")]
    assert other.take_asked(asked) == [("one", "resp_1")]
    assert place.take_asked(asked) == []
    assert not place.is_asked_to_end("one", "resp_1")
    other.close()


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
    with sqlite3.connect(tmp_path / "index.sqlite") as index:
        index.execute("PRAGMA user_version = 9")
    with pytest.raises(MismatchError, match="format version 9"):
        open_place(str(tmp_path))
