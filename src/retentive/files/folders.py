"""Folders that are whole or absent, whichever of several processes writes them."""

import glob
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from retentive.files.names import is_temporary, temporary_name
from retentive.files.writing import explain_full_disk, sync


@contextmanager
def folder_written_atomically(path: Path) -> Generator[Path]:
    """Yield an empty folder to fill; it is renamed to ``path`` if the block succeeds and removed if it fails."""
    temporary = temporary_name(path)
    with explain_full_disk(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in sorted(temporary.iterdir()):
                sync(file)
            sync(temporary)
            if path.exists():  # a damaged one, which the caller has decided to replace
                remove(path)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(path.parent)


@contextmanager
def folder_with_content(path: Path) -> Generator[None]:
    """Make a folder for the time of the block; if nothing stands in it at the end, it goes, with those made above it.

    So work that is refused, or fails before it wrote anything, leaves no empty folder behind.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # something stands in it
            for folder in made:
                folder.rmdir()


@contextmanager
def new_folder(path: Path, *, last: str) -> Generator[Path]:
    """Yield an empty folder to fill; its files are at ``path`` if the block succeeds, and none of them if it fails.

    What a killed process left of an earlier attempt is removed. An empty folder that is there stays, for it may be a
    mount or the current one: the files are moved into it, one after another.

    Args:
        path: The folder, new or empty; see `check_new_folder`.
        last: Name of the file that says that the folder is whole: it is moved at the end.
    """
    beside = (each for each in path.parent.glob(f".{glob.escape(path.name)}.*") if path.name)
    for leftover in filter(is_temporary, (*beside, *(path.iterdir() if path.is_dir() else ()))):
        remove(leftover)
    if not path.exists():
        with folder_written_atomically(path) as made:
            yield made
        return
    whole = temporary_name(path / "whole")
    with folder_written_atomically(whole) as made:
        yield made
    for file in sorted(whole.iterdir(), key=lambda file: file.name == last):
        file.rename(path / file.name)
    whole.rmdir()
    sync(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder: the folder is renamed first, so that a kill never leaves half of it in its place."""
    if path.is_dir() and not path.is_symlink():
        doomed = path if is_temporary(path) else temporary_name(path)
        if doomed != path:
            path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)
