import json
import re

import pytest

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import (
    check_version,
    explain_odd_content,
    json_checksum,
    read_checked_json,
    read_json,
    with_checksum,
    write_json,
)

CURE = "copy it again"


def test_an_object_comes_back_as_it_was(tmp_path):
    content = {"name": "數", "numbers": [1, 2.5], "nothing": None}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json", cure=CURE) == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", r"is not JSON \(Expecting value: line 1"),
        (b'{"a": 1', r"is not JSON \(Expecting ',' delimiter"),
        (b"[" * 200_000, r"is not JSON \(.*recursion"),
        (b'{"a": "\xff"}', r"is not UTF-8 \(invalid start byte at byte 7\)"),
        (b"[1, 2]", "must hold a JSON object, but holds a list"),
        (b"null", "must hold a JSON object, but holds a NoneType"),
    ],
)
def test_a_damaged_file_is_named_with_the_problem_and_the_cure(tmp_path, text, problem):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(DamagedFileError, match=rf"^{re.escape(str(path))} {problem}.*: copy it again\.$"):
        read_json(path, cure=CURE)


def test_a_missing_file_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.json"):
        read_json(tmp_path / "a.json", cure=CURE)


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_every_altered_value_is_found(tmp_path):
    path, content = tmp_path / "a.json", {"count": 3, "files": {"b": [1, 2]}}
    write_json(path, with_checksum(content))
    assert read_checked_json(path, cure=CURE) == content
    reordered = dict(reversed(with_checksum(content).items()))
    path.write_text(json.dumps(reordered, indent=4))
    assert read_checked_json(path, cure=CURE) == content
    for altered in ({"count": 4}, {"files": {"b": [2, 1]}}, {"more": 0}, {"checksum": json_checksum({})}):
        path.write_text(json.dumps(with_checksum(content) | altered))
        with pytest.raises(DamagedFileError, match=r"a\.json was altered .*\(its checksum differs\): copy it again\."):
            read_checked_json(path, cure=CURE)
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match="its checksum differs"):
        read_checked_json(path, cure=CURE)


@pytest.mark.parametrize("content", [{"format_version": 2}, {"format_version": "1"}, {}])
def test_another_version_is_named_with_the_cure(tmp_path, content):
    check_version({"format_version": 1}, tmp_path, 1, cure="build it again")
    rule = r"has format version .*, but this retentive reads 1: use the version that wrote it, or build it again\."
    with pytest.raises(MismatchError, match=rule):
        check_version(content, tmp_path, 1, cure="build it again")


@pytest.mark.parametrize("part", [lambda made: made["seconds"], lambda made: made["rows"].items(), lambda made: +made])
def test_content_of_another_kind_names_the_file(tmp_path, part):
    rule = r"a\.json lacks a part of what stands in such a file .*: copy it again\."
    with pytest.raises(DamagedFileError, match=rule), explain_odd_content(tmp_path / "a.json", cure=CURE):
        part({"rows": [1]})
