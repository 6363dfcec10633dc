import pytest

from retentive.files import (
    explain_full_disk,
    folder_written_atomically,
    is_temporary,
    new_folder,
    remove,
    temporary_name,
    write_atomically,
)
from retentive.files.targets import check_new_folder


def test_a_folder_is_whole_or_absent(tmp_path):
    path = tmp_path / "parts" / "a"
    with folder_written_atomically(path) as temporary:
        assert is_temporary(temporary)
        (temporary / "one").write_text("1")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["one"]
    with pytest.raises(FileNotFoundError), folder_written_atomically(path) as temporary:
        (temporary / "two" / "three").write_text("fails, as there is no folder two")
    assert [file.name for file in path.iterdir()] == ["one"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_there_is_replaced(tmp_path):
    for content in "12":
        with folder_written_atomically(tmp_path / "a") as temporary:
            (temporary / content).write_text(content)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["2"]


def test_files_folders_and_temporary_folders_are_removed(tmp_path):
    for path in (tmp_path / "a", temporary_name(tmp_path / "b")):
        path.mkdir()
        (path / "file").write_text("1")
        remove(path)
    remove(tmp_path / "missing")
    (tmp_path / "file").write_text("1")
    remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_writers_of_the_same_file_do_not_meet(tmp_path):
    (tmp_path / "a.tmp").mkdir()  # the name that a single writer takes
    write_atomically(tmp_path / "a", [b"one ", memoryview(b"two")], several_writers=True)
    assert (tmp_path / "a").read_bytes() == b"one two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.tmp"]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_new_folder_is_filled_at_once(tmp_path, is_there):
    path = tmp_path / "a"
    if is_there:
        path.mkdir()
    before = path.stat().st_ino if is_there else None
    left = temporary_name(path / "whole" if is_there else path)  # of a process that was killed
    (left / "half").mkdir(parents=True)
    check_new_folder("dest", path)
    with new_folder(path, last="last") as made:
        assert not left.exists()
        for name in ("last", "z", "one"):
            (made / name).write_text(name)
        assert not (path / "last").exists()
        assert not (path / "one").exists()
    assert sorted(file.name for file in path.iterdir()) == ["last", "one", "z"]
    assert list(tmp_path.iterdir()) == [path]
    assert before in (None, path.stat().st_ino)  # it may be a mount, or the current folder
    with pytest.raises(FileExistsError, match=r"dest must be a new or empty folder, but .* holds something"):
        check_new_folder("dest", path)
    with pytest.raises(FileExistsError, match="dest must be a new or empty folder"):
        check_new_folder("dest", path / "one")


def test_a_new_folder_that_fails_leaves_what_was_there(tmp_path):
    for path in (tmp_path / "new", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        with pytest.raises(FileNotFoundError), new_folder(path, last="last") as made:
            (made / "two" / "three").write_text("fails, as there is no folder two")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert not any((tmp_path / "empty").iterdir())


def test_a_full_disk_inside_of_another_names_the_file(tmp_path):
    where = explain_full_disk(tmp_path / "outer"), explain_full_disk(tmp_path / "inner")
    with pytest.raises(OSError, match=r"while writing .cure: free some space.*inner'$"), where[0], where[1]:
        raise OSError(28, "No space left on device")
