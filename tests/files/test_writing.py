from pathlib import Path

import pytest

from retentive.files import GrowingFile, checksum, display_name, only_writer, write_atomically


def test_a_grown_file_is_named_by_its_content(tmp_path):
    grown = GrowingFile(tmp_path, "tokens", ".bin")
    grown.write(b"one ")
    grown.write(b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.bin.tmp"]
    record = grown.commit()
    grown.abort()
    path = tmp_path / record.path
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"one two"
    assert (record.size, record.sha256) == (7, checksum(path))
    assert record.path == f"tokens-{record.sha256[:16]}.bin"


def test_an_aborted_file_leaves_nothing(tmp_path):
    grown = GrowingFile(tmp_path, "tokens", ".bin")
    grown.write(b"one")
    grown.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_replaces_the_older_one_whole(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new content")
    assert path.read_bytes() == b"new content"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_with_the_cure(tmp_path):
    (tmp_path / "a.bin.tmp").symlink_to("/dev/full")
    grown = GrowingFile(tmp_path, "a", ".bin")
    grown.write(b"some content")
    with pytest.raises(OSError, match=r"No space left on device while writing \(cure: free some space .*a\.bin\.tmp"):
        grown.commit()
    grown.abort()
    (tmp_path / "b.json.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device while writing .*b\.json"):
        write_atomically(tmp_path / "b.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused_while_the_first_one_writes(tmp_path):
    refused = pytest.raises(BlockingIOError, match="another process is writing to this folder")
    with only_writer(tmp_path), refused, only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "shown"), [("a/数.txt", "a/数.txt"), ("a\nb\x1b", "a\\nb\\x1b"), ("\udce9", "\\xe9")])
def test_names_are_shown_on_one_line(name, shown):
    assert display_name(name) == shown
