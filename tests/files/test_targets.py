"""Output that cannot be written is refused before the work, and the check leaves nothing behind."""

import os
from pathlib import Path

import pytest

from retentive.files.targets import check_file_target, check_folder_target
from retentive.files.writing import write_atomically

UNWRITABLE = Path("/proc/sys")  # for everybody, root too


@pytest.mark.parametrize("name", ["a.json", "new/folder/a.json"])
def test_what_can_be_written_is_not_touched(tmp_path: Path, name: str):
    check_file_target("output", tmp_path / name, suggestion="a.json")
    check_folder_target("output", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_as_it_is(tmp_path: Path):
    (tmp_path / "a.json").write_text("old")
    check_file_target("output", tmp_path / "a.json", suggestion="a.json")
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_relative_path_is_checked_where_it_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check_file_target("output", Path("a.json"), suggestion="a.json")
    check_folder_target("output", Path("new/folder"))


def test_what_cannot_be_written_is_refused_with_the_cure(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(
        ValueError, match=rf"^output must be a file, but {tmp_path} is a folder: give {tmp_path}/a.json"
    ):
        check_file_target("output", tmp_path, suggestion="a.json")
    with pytest.raises(ValueError, match=rf"^output must be a file in a folder, but {file} is a file: choose another"):
        check_file_target("output", file / "a.json", suggestion="a.json")
    for path in (file, file / "inside"):
        with pytest.raises(ValueError, match=rf"^run must be a folder, but {file} is a file: choose another name"):
            check_folder_target("run", path)


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason="needs /proc")
def test_a_place_that_is_not_ours_is_refused():
    message = rf"^output must be where this process can write, but {UNWRITABLE} is not \(.+\): choose another folder"
    with pytest.raises(ValueError, match=message):
        check_file_target("output", UNWRITABLE / "a.json", suggestion="a.json")
    with pytest.raises(ValueError, match=message):
        check_folder_target("output", UNWRITABLE / "new")


def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(ValueError, match=r"save_state must be a file, but .* is a device or a pipe"):
            check_file_target("save_state", path, suggestion="x")
        with pytest.raises(ValueError, match="is a device or a pipe, which would be replaced"):
            write_atomically(path, b"x")
        assert path.is_fifo()
    assert sorted(tmp_path.iterdir()) == [link, pipe]
