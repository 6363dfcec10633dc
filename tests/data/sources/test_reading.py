import json
import os
import tempfile
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retentive.data.sources import documents, reading
from retentive.data.sources.documents import Document, Problem
from retentive.data.sources.folders import list_files
from retentive.data.sources.reading import read_documents


def read(folder, *, pattern="**/*", exclude="", **options):
    """Documents by name, and problems as (name, kind)."""
    files, problems = list_files(folder, pattern=pattern, exclude=exclude)
    found = [*problems, *read_documents(files, **options)]
    texts = {one.name: one.text for one in found if isinstance(one, Document)}
    return texts, sorted((one.name, one.kind) for one in found if isinstance(one, Problem))


def messages(folder, **options):
    files, problems = list_files(folder)
    return {one.name: one.message for one in [*problems, *read_documents(files, **options)] if isinstance(one, Problem)}


def test_text_files_come_sorted_and_as_they_stand(write_files):
    folder = write_files({"b.txt": "line\r\nline", "a/z.md": "é", "a.txt": "1"})
    texts, problems = read(folder)
    assert list(texts.items()) == [("a.txt", "1"), ("a/z.md", "é"), ("b.txt", "line\r\nline")]
    assert problems == []


@pytest.mark.parametrize("separator", [None, "|"])
def test_a_byte_order_mark_is_no_part_of_the_text(write_files, separator):
    marked = {
        "a.txt": "\ufeffone|t\ufeffwo",
        "b.txt": "\ufeff",
        "c.txt": "\ufeff" + "x" * 8,
        "d.jsonl": '\ufeff{"text": "x"}',
    }
    plain = {name: text.removeprefix("\ufeff") for name, text in marked.items()}
    found = {}
    for kind, files in (("marked", marked), ("plain", plain)):
        folder = write_files({f"{kind}/{name}": text for name, text in files.items()}) / kind
        read_bytes = []
        found[kind] = read(folder, separator=separator, max_document_bytes=10, on_bytes=read_bytes.append)
        assert sum(read_bytes) == sum(path.stat().st_size for path in folder.iterdir())
    assert found["marked"] == found["plain"]
    assert ("b.txt", "empty") in found["marked"][1]
    assert "\ufeff" in "".join(found["marked"][0].values())  # within a text it is a character like others


def test_a_bad_file_is_reported_and_the_rest_goes_on(write_files):
    folder = write_files({"a.txt": "good", "bad.txt": b"caf\xe9", "empty.txt": "", "z.txt": "good too"})
    (folder / "gone.txt").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe")
    (folder / "linked").symlink_to(folder)
    texts, problems = read(folder)
    assert texts == {"a.txt": "good", "z.txt": "good too"}
    unreadable = [(name, "unreadable") for name in ("gone.txt", "linked", "pipe")]
    assert problems == [("bad.txt", "bad_utf8"), ("empty.txt", "empty"), *unreadable]
    said = messages(folder)
    assert said["bad.txt"].startswith("is not UTF-8 (byte 0xe9 at offset 3): convert it")
    assert said["gone.txt"] == "is a link to nothing"
    assert said["linked"].startswith("is a link to a folder, which is not followed")
    assert said["pipe"] == "is not a regular file"


def test_a_file_that_became_a_folder_is_reported(write_files):
    folder = write_files({"a.txt": "first", "b.txt": "second"})
    files, _ = list_files(folder)
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()
    problem, document = read_documents(files)
    assert (problem.name, problem.kind, problem.message) == ("a.txt", "unreadable", "cannot be read: Is a directory")
    assert document == Document(name="b.txt", text="second")


@pytest.fixture
def not_root():
    """A folder for someone who is bound by permissions, which root is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if was_root:
                os.seteuid(0)


def test_a_file_or_folder_without_permission_is_reported(not_root):
    (not_root / "b").mkdir()
    for name in ("a.txt", "b/c.txt", "d.txt"):
        (not_root / name).write_text("text")
    (not_root / "a.txt").chmod(0)
    (not_root / "b").chmod(0)
    assert messages(not_root) == dict.fromkeys(["a.txt", "b"], "cannot be read: Permission denied")
    assert list(read(not_root)[0]) == ["d.txt"]
    (not_root / "b").chmod(0o755)


def test_patterns_choose_and_leave_out(write_files):
    names = ["a.py", "a.txt", "lib/b.py", "lib/test/c.py", "test/d.py", ".git/e.py", "lib/.hidden.py", "x/y/z.py"]
    folder = write_files(dict.fromkeys(names, "text"))

    def chosen(pattern, exclude=""):
        return sorted(read(folder, pattern=pattern, exclude=exclude)[0])

    assert chosen("**/*.py") == ["a.py", "lib/b.py", "lib/test/c.py", "test/d.py", "x/y/z.py"]
    assert chosen("*.py") == ["a.py"]
    assert chosen("*.txt, lib/*.py") == ["a.txt", "lib/b.py"]
    assert chosen("**/*.py", "**/test") == ["a.py", "lib/b.py", "x/y/z.py"]
    assert chosen("**/*.py", "test,**/z.*") == ["a.py", "lib/b.py", "lib/test/c.py"]
    assert chosen("lib/**") == ["lib/b.py", "lib/test/c.py"]
    assert chosen(".git/*.py,**/.*.py") == [".git/e.py", "lib/.hidden.py"]
    assert chosen("**/[ab].p?") == ["a.py", "lib/b.py"]


def test_bad_patterns_and_sources_are_refused(write_files, tmp_path):
    folder = write_files({"a.txt": "text"})
    with pytest.raises(ValueError, match="pattern takes globs relative to the source, but has '/a'"):
        list_files(folder, pattern="/a")
    with pytest.raises(ValueError, match=r"exclude takes globs relative to the source, but has '\.\./b'"):
        list_files(folder, exclude="../b")
    with pytest.raises(ValueError, match="pattern must hold a glob"):
        list_files(folder, pattern=" ,")
    with pytest.raises(ValueError, match=r"choose files of a folder, but source .* is one file"):
        list_files(folder / "a.txt", pattern="*.txt")
    with pytest.raises(FileNotFoundError, match="absent' does not exist"):
        list_files(tmp_path / "absent")
    files, _ = list_files(folder)
    with pytest.raises(ValueError, match=r"max_document_bytes must be from 1 to .*, but is 0"):
        next(read_documents(files, max_document_bytes=0))
    with pytest.raises(ValueError, match="separator must be None or a string of at least one character"):
        next(read_documents(files, separator=""))


def test_names_of_any_bytes_can_be_printed(write_files):
    folder = write_files({})
    for name in (b"caf\xe9.txt", b"two\nlines.txt", "数.txt".encode()):
        (folder / os.fsdecode(name)).write_text("text")
    assert sorted(read(folder)[0]) == ["caf\\xe9.txt", "two\\nlines.txt", "数.txt"]


def test_a_huge_line_is_reported_and_kept(write_files):
    line = "x" * (documents.HUGE_LINE_BYTES + 1)
    folder = write_files({"a.txt": f"short\n{line}\nshort", "b.txt": f"short\n{line[1:]}\n"})
    texts, problems = read(folder)
    assert sorted(texts) == ["a.txt", "b.txt"]
    assert problems == [("a.txt", "huge_line")]
    assert "has a line of 1,048,577 bytes" in messages(folder)["a.txt"]


def test_documents_above_the_limit_are_reported_and_left_out(write_files):
    lines = [json.dumps({"text": text}) for text in ("short", "x" * 100, "short again")]
    folder = write_files({"a.txt": "x" * 51, "b.txt": "x" * 50, "c.jsonl": "\n".join(lines), "d.jsonl": lines[1]})
    texts, problems = read(folder, max_document_bytes=50)
    assert sorted(texts) == ["b.txt", "c.jsonl:1", "c.jsonl:3"]
    assert problems == [("a.txt", "too_large"), ("c.jsonl:2", "too_large"), ("d.jsonl:1", "too_large")]
    said = messages(folder, max_document_bytes=50)
    assert said["a.txt"] == "has 51 bytes, above max_document_bytes=50: split it (see separator), or raise the limit"
    assert "a line of 113 bytes" in said["c.jsonl:2"]


def test_a_separator_makes_many_documents_of_a_file(write_files):
    folder = write_files({"a.txt": b"one\n===\ntwo\n===\n\xff\n===\n\n===\n", "b.txt": "none"})
    texts, problems = read(folder, separator="\n===\n")
    assert texts == {"a.txt:1": "one", "a.txt:2": "two", "b.txt:1": "none"}
    assert problems == [("a.txt:3", "bad_utf8")]


@given(data=st.data())
def test_pieces_do_not_depend_on_how_a_file_is_read(tmp_path_factory, data):
    separator = data.draw(st.sampled_from(["|", "ab", "aab", "||"]))
    text = data.draw(st.text("ab|c", max_size=60))
    limit = data.draw(st.integers(1, 20))
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    path.write_text(text)
    expected = {f"a.txt:{i}": piece for i, piece in enumerate(text.split(separator), 1) if 0 < len(piece) <= limit}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK_BYTES", data.draw(st.integers(1, 10)))
        texts, problems = read(path, separator=separator, max_document_bytes=limit)
        said = messages(path, separator=separator, max_document_bytes=limit)
    assert texts == expected
    too_large = [f"a.txt:{i}" for i, piece in enumerate(text.split(separator), 1) if len(piece) > limit]
    assert [name for name, kind in problems if kind == "too_large"] == sorted(too_large)
    for name, message in said.items():
        if name in too_large:
            assert message.startswith(f"has {len(text.split(separator)[int(name[6:]) - 1])} bytes, above")


def test_jsonl_gives_the_field_and_reports_lines(write_files):
    lines = [
        b'\xef\xbb\xbf{"text": "first"}',
        b"",
        b'{"text": "sec',
        b'{"body": "b", "n": 1}',
        b'["text"]',
        b'{"text": 5}',
        b'{"text": ""}',
        b'{"text": "caf\xe9"}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        b'{"text": "\\u6570"}',
    ]
    folder = write_files({"a.jsonl": b"\n".join(lines), "b.ndjson": '{"text": "other"}\n', "empty.jsonl": ""})
    texts, problems = read(folder)
    assert texts == {"a.jsonl:1": "first", "a.jsonl:11": "数", "b.ndjson:1": "other"}
    assert dict(problems) == {
        "a.jsonl:3": "bad_json",
        "a.jsonl:4": "missing_field",
        "a.jsonl:5": "missing_field",
        "a.jsonl:6": "not_text",
        "a.jsonl:7": "empty",
        "a.jsonl:8": "bad_utf8",
        "a.jsonl:9": "bad_utf8",
        "a.jsonl:10": "bad_json",
        "empty.jsonl": "empty",
    }
    said = messages(folder)
    assert said["a.jsonl:4"] == "has no field 'text' (it has: 'body', 'n'): name the one with the text"
    assert said["a.jsonl:6"] == "field 'text' holds int, not a string"
    assert read(folder, field="body")[0] == {"a.jsonl:4": "b"}


def test_parquet_gives_the_column_and_reports_rows(write_files):
    folder = write_files({})
    rows = ["first", None, "", b"caf\xe9", "数", "x" * 60]
    column = arrow.array([row.encode() if isinstance(row, str) else row for row in rows], arrow.binary())
    table = arrow.table({"text": column, "number": arrow.array(range(6))})
    parquet.write_table(table, folder / "a.parquet", row_group_size=2)
    parquet.write_table(table.slice(0, 0), folder / "none.parquet")
    texts, problems = read(folder, max_document_bytes=50)
    assert texts == {"a.parquet:1": "first", "a.parquet:5": "数"}
    assert problems == [
        ("a.parquet:2", "missing_field"),
        ("a.parquet:3", "empty"),
        ("a.parquet:4", "bad_utf8"),
        ("a.parquet:6", "too_large"),
        ("none.parquet", "empty"),
    ]
    assert messages(folder, field="body")["a.parquet"].startswith("has no column 'body' (it has: 'text', 'number')")
    assert messages(folder, field="number")["a.parquet"] == "column 'number' holds int64, not strings"


@pytest.mark.parametrize(
    "kind",
    [arrow.string(), arrow.large_string(), arrow.string_view(), arrow.dictionary(arrow.int32(), arrow.string())],
)
def test_parquet_takes_every_kind_of_string(write_files, kind):
    folder = write_files({})
    column = arrow.array(["a", "数", "a"]).cast(kind)
    parquet.write_table(arrow.table({"text": column}), folder / "a.parquet")
    assert list(read(folder)[0].values()) == ["a", "数", "a"]


def test_a_damaged_parquet_file_is_reported_and_the_rest_goes_on(write_files):
    folder = write_files({"a.parquet": b"no table", "z.txt": "good"})
    parquet.write_table(arrow.table({"text": ["some text"] * 5000}), folder / "b.parquet", compression="none")
    content = (folder / "b.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(content[: len(content) // 2])
    texts, problems = read(folder)
    assert texts == {"z.txt": "good"}
    assert problems == [("a.parquet", "unreadable"), ("b.parquet", "unreadable")]
    assert "is damaged or not parquet, after row 0" in messages(folder)["b.parquet"]


def test_progress_counts_every_byte_once(write_files):
    folder = write_files(
        {"a.txt": "one" * 9, "b.jsonl": '{"text": "x"}\n{"text": "' + "y" * 99 + '"}', "c.parquet": b"x"}
    )
    parquet.write_table(arrow.table({"text": ["some text"] * 999}), folder / "d.parquet")
    files, _ = list_files(folder)
    for options in ({}, {"separator": "e"}, {"max_document_bytes": 8}):
        counted = []
        assert list(read_documents(files, on_bytes=counted.append, **options))
        assert sum(counted) == sum(file.size for file in files)
