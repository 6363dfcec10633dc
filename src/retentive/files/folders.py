"""Files and folders of a store that are whole or absent, whichever of several workers writes them."""

import os
import re
import shutil
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from retentive.files.writing import TEMPORARY_SUFFIX, explain_full_disk, sync


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no finished file has and no other process takes."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder was left by a writer that did not come to its end."""
    return re.fullmatch(r"\..+\.[0-9a-f]{32}\.tmp", path.name) is not None


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write ``parts`` one after the other; ``path`` is what it was before or all of the new content, never between.

    Raises:
        OSError: If the disk is full or the folder cannot be written; it names the file and the cure.
    """
    temporary = temporary_name(path)
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextmanager
def folder_written_atomically(path: Path) -> Generator[Path]:
    """Give an empty folder to fill; it takes the name ``path`` when the block ends well and is removed when not."""
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


def remove(path: Path) -> None:
    """Remove a file, or a folder by first taking its name away, so that no half of it is ever found."""
    if path.is_dir() and not path.is_symlink():
        gone = path if is_temporary(path) else temporary_name(path)
        if gone != path:
            path.rename(gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)
