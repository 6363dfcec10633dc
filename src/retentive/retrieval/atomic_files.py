"""Files and folders that are whole or absent, and one builder at a time."""

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
LOCK_FILE = "lock"
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
    with explained(path):
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
    with explained(path):
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


def sync(path: Path) -> None:
    """Bring a file, or the names inside a folder, safely to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Say which file met a full disk (or quota, or size limit), and what helps."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL_DISK:
            raise
        cure = "free some space or choose another disk, and build again: finished blocks are kept"
        raise OSError(error.errno, f"{os.strerror(error.errno)} while writing; {cure}", str(path)) from error


@contextmanager
def only_builder(folder: Path) -> Generator[None]:
    """Hold a store against other builders. The system lets go of it when the process ends, however it ends.

    Raises:
        BlockingIOError: If another process builds there now.
    """
    import fcntl  # reading a store works where this module does not exist

    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = "another process is building this store; wait for it to end or choose another folder"
            raise BlockingIOError(errno.EWOULDBLOCK, message, str(folder)) from error
        yield
    finally:
        os.close(handle)


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
