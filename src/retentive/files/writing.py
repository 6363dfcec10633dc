"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder."""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TEMPORARY_SUFFIX = ".tmp"
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What a manifest says of one file: its path in the store's folder, its size in bytes and its SHA-256."""

    path: str
    size: int
    sha256: str


class GrowingFile:
    """A file written piece by piece under a temporary name and hashed on the way; `commit` gives it its final name.

    Args:
        folder: Folder of the file; it must exist.
        role: What the file is, as in ``train-tokens``; its final name is the role, its content's hash and the suffix,
            so a new file never overwrites another content and a manifest can be replaced in one step.
        suffix: End of the name, as in ``.bin``.
    """

    def __init__(self, folder: Path, role: str, suffix: str) -> None:
        self._folder, self._role, self._suffix = folder, role, suffix
        self._path = folder / f"{role}{suffix}{TEMPORARY_SUFFIX}"
        self._hash = hashlib.sha256()
        self._size = 0
        with explain_full_disk(self._path):
            self._file: IO[bytes] = self._path.open("wb", buffering=1 << 20)

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes."""
        with explain_full_disk(self._path):
            self._file.write(content)
        self._hash.update(content)
        self._size += len(content)

    def commit(self) -> FileRecord:
        """Bring the file safely to disk under its final name."""
        with explain_full_disk(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            digest = self._hash.hexdigest()
            name = f"{self._role}-{digest[:16]}{self._suffix}"
            self._path.replace(self._folder / name)
        return FileRecord(path=name, size=self._size, sha256=digest)

    def abort(self) -> None:
        """Throw the file away; does nothing after `commit`."""
        try:
            self._file.close()  # flushes, which can meet the full disk again
        except OSError:
            pass
        finally:
            self._path.unlink(missing_ok=True)


def fill_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Let ``fill`` write a temporary file beside ``path``, bring it safely to disk and rename it over ``path``.

    Whatever goes wrong, and whenever the process is killed, ``path`` is what it was before or all of the new content.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with explain_full_disk(path):
            temporary.touch()
            mode = temporary.stat().st_mode
            fill(temporary)
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
            sync(temporary)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_atomically(path: Path, content: bytes) -> FileRecord:
    """Write a small file whole or not at all, replacing an older one of the same name."""
    fill_atomically(path, lambda temporary: temporary.write_bytes(content))
    return FileRecord(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def sync(path: Path) -> None:
    """Bring a file, or the renames inside a folder, safely to disk: they survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explain_full_disk(path: Path) -> Generator[None]:
    """Say which file met a full disk (or quota, or file size limit), and what helps."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL_DISK:
            raise
        cure = "free some space or choose a folder on another disk, and run again; nothing finished was lost"
        raise OSError(error.errno, f"{os.strerror(error.errno)} while writing (cure: {cure})", str(path)) from error


@contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Hold a folder against other writers; the system lets go of it when the process ends, however it ends.

    Raises:
        BlockingIOError: If another process writes there now.
    """
    import fcntl  # reading a store works where this module does not exist

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = "another process is writing to this folder; wait for it to end or choose another output folder"
            raise BlockingIOError(errno.EWOULDBLOCK, message, str(folder)) from error
        yield
    finally:
        os.close(handle)


def checksum(path: Path, on_bytes: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file, read in pieces; ``on_bytes`` is told the size of each."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    return found.hexdigest()


def display_name(name: str) -> str:
    """A file name that can be printed, written as UTF-8 and kept on one line, whatever its bytes are."""
    printable = os.fsencode(name).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda found: repr(found.group())[1:-1], printable)
