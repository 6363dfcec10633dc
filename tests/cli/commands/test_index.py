"""``retentive index`` as a user types it: build, search, add, remove, verify, info and plan."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retentive.cli.main import main
from retentive.data.sources.text_source import SourceConfig
from retentive.data.text_stores import watch_store
from retentive.retrieval import LocalEngine
from retentive.retrieval.maintenance import StoreChange
from retrieval.texts import contents, make_documents

TEXTS = {
    "animals/zebra.txt": "Zebras live in herds.\nA zebra has stripes, and no two zebras have the same stripes. " * 4,
    "animals/okapi.txt": "The okapi is related to the giraffe, though it has stripes like a zebra. " * 4,
    "tools/hammer.txt": "A hammer drives nails into wood. " * 8,
    "empty.txt": "",
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    for name, content in TEXTS.items():
        path = tmp_path / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "text"


@pytest.fixture
def store(text: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    main(["index", "build", "--source", str(text), "--store", str(text.parent / "store")])
    capsys.readouterr()
    return text.parent / "store"


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Run an action; what it printed, or for another exit code than 0 what it complained of."""
    capsys.readouterr()
    try:
        main(["index", *map(str, arguments)])
        found = 0
    except SystemExit as stop:
        found = stop.code
    printed = capsys.readouterr()
    assert found == code, printed.err
    assert "Traceback" not in printed.err
    return printed.err if code == 2 else printed.out


def test_build_says_what_was_made_and_builds_nothing_twice(text: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--source", text, "--store", text.parent / "s", "--chunk-size", 32, "--table", "true"]
    first = run(capsys, "build", *options, "--neighbours.k=3")
    assert "3 documents" in first
    assert "blocks made: 1 chunks, 1 lexical; found finished and sound: nothing" in first
    assert "empty.txt: has no text" in first
    assert "chunks with 3 each" in first
    again = run(capsys, "build", *options, "--neighbours.k=3")
    assert "blocks made: nothing; found finished and sound: 1 chunks, 1 lexical" in again


def running_in_group(group: int) -> list[str]:
    """Command lines of the processes of a group that have not ended."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_ctrl_c_ends_all_processes_without_a_traceback_and_the_build_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text" / "folder").mkdir(parents=True)
    for name, content in make_documents(300, words=60):
        (tmp_path / "text" / name).write_text(content)
    options = ["--source", tmp_path / "text", "--block-bytes", 400, "--chunk-size", 32]
    run(capsys, "build", *options, "--store", tmp_path / "whole")
    total = len(list((tmp_path / "whole" / "chunks").iterdir()))
    command = ["index", "build", *options, "--store", tmp_path / "store", "--workers", 2]
    process = subprocess.Popen(
        [sys.executable, "-m", "retentive.cli.main", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    chunks = tmp_path / "store" / "chunks"
    while process.poll() is None and not (chunks.exists() and any(chunks.glob("*.safetensors"))):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert told.endswith("retentive: stopped.\n")
    deadline = time.monotonic() + 10  # the process that keeps account of the others' semaphores ends after them
    while running_in_group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_in_group(process.pid) == []
    assert 0 < len(list(chunks.glob("*.safetensors"))) < total
    run(capsys, *command[1:])
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_search_shows_place_score_and_marked_words(store: Path, capsys: pytest.CaptureFixture[str]):
    place, text, second, *_ = run(capsys, "search", "STRIPES of a zebra", "--store", store, "--k=2").splitlines()
    assert re.match(r"1\. animals/\w+\.txt, line \d+, column \d+, score \d", place)
    assert "\u27e6zebra\u27e7" in text or "\u27e6stripes\u27e7" in text
    assert second.startswith("2. ")
    assert run(capsys, "search", "xylophone", "--store", store) == "nothing found: no chunk has a word of it\n"


def test_answers_as_json_of_chosen_documents(store: Path, capsys: pytest.CaptureFixture[str]):
    asked = ("search", '"no two zebras" -elephant', "--store", store, "--json=true", "--where", "path=*zebra*")
    (answer,) = json.loads(run(capsys, *asked, "--one-per-document=true"))
    assert answer["document"] == "animals/zebra.txt"
    marked = [answer["text"][begin:end] for begin, end in answer["matches"]]
    assert {"no", "two", "zebras"} <= {word.lower() for word in marked}
    with pytest.raises(SystemExit):  # a condition to the letter, not one that is left out
        main(["index", "search", "zebras", "--store", str(store), "--where", "null"])
    assert "'null'" in capsys.readouterr().err


def test_the_place_of_an_answer_is_its_place_in_the_file(store: Path, text: Path, capsys: pytest.CaptureFixture[str]):
    (answer, *_) = json.loads(run(capsys, "search", "Zebras live in herds", "--store", store, "--json=true"))
    lines = (text / answer["document"]).read_text().split("\n")
    begin, end = answer["matches"][0]
    assert lines[answer["line"] - 1][answer["column"] - 1 :].lower().startswith(("zebras", "live", "in", "herds"))
    assert (text / answer["document"]).read_bytes()[answer["begin"] : answer["end"]].decode() == answer["text"]
    assert end > begin


def test_the_query_can_come_from_standard_input(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("hammer and nails"))
    assert "tools/hammer.txt" in run(capsys, "search", "-", "--store", store, "--k=1")


def test_added_documents_are_found_and_removed_ones_are_not(
    text: Path, store: Path, capsys: pytest.CaptureFixture[str]
):
    more = text.parent / "more"
    more.mkdir()
    (more / "gnu.txt").write_text("A gnu grazes beside the zebra.")
    assert "4 documents" in run(capsys, "add", "--source", more, "--store", store)
    assert "gnu.txt" in run(capsys, "search", "gnu", "--store", store)
    again = run(capsys, "add", "--source", more, "--store", store)
    assert "document 'gnu.txt' is there already, with the same text" in again
    (more / "gnu.txt").write_text("Another text.")
    assert "pass replace=True" in run(capsys, "add", "--source", more, "--store", store, code=2)
    run(capsys, "add", "--source", more, "--store", store, "--replace=true", "--reindex=true")
    assert "nothing found" in run(capsys, "search", "gnu", "--store", store)
    removed = run(capsys, "remove", "animals/zebra.txt", "animals/okapi.txt", "--store", store, "--table=true")
    assert "documents: 2 removed" in removed
    assert "nothing found" in run(capsys, "search", "zebra", "--store", store)
    message = run(capsys, "remove", "animals/zebra.txt", "--store", store, code=2)
    assert "document 'animals/zebra.txt' is not in the store" in message
    assert "(3 removed)" in run(capsys, "info", "--store", store)


def test_verify_names_the_damage_and_build_mends_it(text: Path, store: Path, capsys: pytest.CaptureFixture[str]):
    assert "everything is as its checksum says" in run(capsys, "verify", "--store", store)
    (victim,) = (store / "chunks").iterdir()
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = run(capsys, "verify", "--store", store, code=1)
    assert str(victim) in found
    assert f"{victim} does not have the content" in found
    assert "build or sync the store from its source again" in found
    mended = run(capsys, "build", "--source", text, "--store", store)
    assert "blocks made: 1 chunks; found finished and sound: 1 lexical" in mended
    assert victim.read_bytes() == content


def test_info_shows_counts_sizes_and_index(store: Path, capsys: pytest.CaptureFixture[str]):
    found = run(capsys, "info", "--store", store)
    for expected in ("documents  3", "of 64 tokens", "tokenizer  bytes", "kind lexical", "BM25", "in all"):
        assert expected in found


def test_plan_prints_all_sizes_and_checks_itself(capsys: pytest.CaptureFixture[str]):
    found = run(capsys, "plan", "--tokens", "2e12")
    names = ["chunks", "tokens", "vectors", "codes", "index", "training sample", "shards", "neighbour table", "hours"]
    assert [name for name in names if f"\n{name} " not in "\n" + found] == []
    assert "OPQ64_256,IVF4194304_HNSW32,PQ64np" in found
    assert "11 of 12 agree within 15 percent" in found


def test_a_bad_document_is_left_out_or_stops_the_build_by_name(text: Path, capsys: pytest.CaptureFixture[str]):
    (text / "latin.txt").write_bytes(b"caf\xe9")
    store = text.parent / "bad"
    message = run(capsys, "build", "--source", text, "--store", store, "--on-error=stop", code=2)
    assert "latin.txt: is not UTF-8 (byte 0xe9 at offset 3)" in message
    assert "finished blocks are kept" in message
    assert "latin.txt: is not UTF-8" in run(capsys, "build", "--source", text, "--store", store)
    assert "zebra" in run(capsys, "search", "zebra", "--store", store)


def test_an_unreadable_file_is_named(text: Path, capsys: pytest.CaptureFixture[str]):
    (text / "gone.txt").symlink_to(text / "nowhere.txt")
    store = text.parent / "s"
    assert "gone.txt" in run(capsys, "build", "--source", text, "--store", store, "--on-error=stop", code=2)
    assert "  gone.txt: " in run(capsys, "build", "--source", text, "--store", store)


def test_a_store_can_be_read_where_nothing_can_be_written(store: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in store.rglob("*")}
    everything = [store, *store.rglob("*")]
    modes = {path: path.stat().st_mode for path in everything}
    for path in everything:
        path.chmod(modes[path] & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        assert "\u27e6zebra\u27e7" in run(capsys, "search", "zebra", "--store", store)
        run(capsys, "info", "--store", store)
        run(capsys, "verify", "--store", store)
    finally:
        for path in everything:
            path.chmod(modes[path])
    assert {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in store.rglob("*")} == before


def test_a_jsonl_file_is_many_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "lines.jsonl").write_text('{"text": "a zebra"}\n{"text": "an okapi"}\n{"other": 1}\n')
    found = run(capsys, "build", "--source", tmp_path / "lines.jsonl", "--store", tmp_path / "s")
    assert "2 documents" in found
    assert "lines.jsonl:3" in found
    assert "lines.jsonl:2, line 1" in run(capsys, "search", "okapi", "--store", tmp_path / "s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "x", "--store", "/nowhere"], "there is no finished store in '/nowhere': build one"),
        (["verify", "--store", "/nowhere"], "there is no store in '/nowhere'"),
        (["build", "--source", "/nowhere", "--store", "s"], "source '/nowhere' does not exist"),
        (["build", "--source", ".", "--store", "./s"], "store must not be inside source"),
        (["serch", "x"], "invalid choice: 'serch'"),
        (["plan", "--tokens", "-1"], "tokens must be positive, but is -1"),
        (["plan", "--tokens", "many"], "tokens"),
        (["plan"], "tokens"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert message in run(capsys, *arguments, code=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chunk-size=0"], "chunk_size must be from 1 to 65535 tokens, but is 0"),
        (["--tokenizer=encoder"], "tokenizer=encoder needs encoder dense or hybrid, but encoder is lexical"),
        (["--tokenizer=/nowhere"], "tokenizer must be bytes, encoder or a path, but '/nowhere' is none of them"),
        (["--end-of-text=x"], "end_of_text is for a tokenizer.json, but tokenizer is bytes"),
        (["--encoder=dense"], "encoder dense needs model=, a folder or a hub id"),
        (["--encoder=sparse"], "encoder must be one of lexical, dense, hybrid, but is 'sparse'"),
        (["--address=x:1"], "address is of a Ray cluster, but engine is 'local': add --engine ray"),
        (["--workers=0"], "workers must be at least 1 process, but is 0"),
        (["--pattern=*.none"], "finds no file in"),
        (["--neighbours.k=0"], "k must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(
    text: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert message in run(capsys, "build", "--source", text, "--store", text.parent / "s", *options, code=2)
    assert not (text.parent / "s").exists()


def test_a_store_that_is_gone_half_is_told_how_to_mend(store: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(store / "lexical")
    message = run(capsys, "search", "zebra", "--store", store, code=2)
    assert "lexical" in message
    assert "is missing: retentive index reindex" in message
    run(capsys, "reindex", "--store", store)
    assert "\u27e6zebra\u27e7" in run(capsys, "search", "zebra", "--store", store)


def test_a_store_follows_a_folder(text: Path, store: Path, capsys: pytest.CaptureFixture[str]):
    (text / "animals/zebra.txt").unlink()
    (text / "tools/hammer.txt").write_text("A hammer breaks stones.")
    (text / "new.txt").write_text("A gnu grazes.")
    synced = run(capsys, "sync", "--source", text, "--store", store)
    assert "documents: 1 added, 1 replaced, 1 removed, 1 unchanged" in synced
    listed = json.loads(run(capsys, "list", "--store", store, "--json"))
    assert sorted(one["name"] for one in listed["documents"]) == ["animals/okapi.txt", "new.txt", "tools/hammer.txt"]
    assert "new.txt" in run(capsys, "list", "--store", store)
    assert "with the text of 2 removed documents" in run(capsys, "gc", "--store", store)
    assert "everything is as its checksum says" in run(capsys, "verify", "--store", store)
    assert "breaks \u27e6stones\u27e7" in run(capsys, "search", "stones", "--store", store)
    for path in text.rglob("*.txt"):
        path.write_bytes(b"\xff")
    message = run(capsys, "sync", "--source", text, "--store", store, code=2)
    assert "the source has no document that can be used (" in message
    assert "breaks" in run(capsys, "search", "stones", "--store", store)


def test_a_watched_folder_is_synced_when_it_changes(text: Path, store: Path):
    changes: list[StoreChange] = []
    looks = iter(range(6))

    def stop() -> bool:
        look = next(looks)
        if look == 1:
            (text / "new.txt").write_text("A gnu grazes.")
        return look == 5

    watch_store(SourceConfig(source=text), store, engine=LocalEngine(), seconds=0.01, show=changes.append, stop=stop)
    assert [change.report.added for change in changes] == [0, 1]


def test_a_watched_folder_may_be_away_for_a_while(text: Path, store: Path, capsys: pytest.CaptureFixture[str]):
    changes: list[StoreChange] = []
    looks = iter(range(8))

    def stop() -> bool:
        look = next(looks)
        if look == 1:
            text.rename(text.with_name("away"))
        elif look == 4:
            text.with_name("away").rename(text)
            (text / "new.txt").write_text("A gnu grazes.")
        return look == 7

    watch_store(SourceConfig(source=text), store, engine=LocalEngine(), seconds=0.01, show=changes.append, stop=stop)
    assert [(change.report.added, change.report.removed) for change in changes] == [(0, 0), (1, 0)]
    assert capsys.readouterr().err.count("not synced yet") == 1
    missing = SourceConfig(source=text / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        watch_store(missing, store, engine=LocalEngine(), seconds=0.01, show=changes.append, stop=stop)
