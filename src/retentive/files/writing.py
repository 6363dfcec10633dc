"""Files that are whole or absent: each is written under a temporary name, synced, renamed, and its folder synced."""

import errno
import hashlib
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from retentive.files.checksums import FileRecord
from retentive.files.names import TEMPORARY_SUFFIX, temporary_name

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CURE = "free some space or choose a folder on another disk, and run again; files that were finished before are whole"


class GrowingFile:
    """A file that is written in parts under a temporary name and hashed on the way; `commit` gives its final name.

    Args:
        folder: Folder of the file; it must exist.
        role: What the file is, as in ``train-tokens``. Its final name is the role, the hash of its content and the
            suffix, so a new file never overwrites another content and a manifest can be replaced in one step.
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
        """Sync the file to disk and give it its final name."""
        with explain_full_disk(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            digest = self._hash.hexdigest()
            name = f"{self._role}-{digest[:16]}{self._suffix}"
            self._path.replace(self._folder / name)
        return FileRecord(path=name, size=self._size, sha256=digest)

    def abort(self) -> None:
        """Remove the unfinished file; does nothing after `commit`."""
        try:
            self._file.close()  # flushes, which can meet the full disk again
        except OSError:
            pass
        finally:
            self._path.unlink(missing_ok=True)


def fill_atomically(path: Path, fill: Callable[[Path], object], *, several_writers: bool = False) -> None:
    """Let ``fill`` write a temporary file beside ``path``, sync it to disk and rename it to ``path``.

    Whatever fails, and whenever the process is killed, ``path`` holds its old content or all of the new one.

    Args:
        path: The file to write.
        fill: Writes the file at the path that it is called with.
        several_writers: Whether other processes may write the same file at the same time. Each then writes a temporary
            file of its own, which `is_temporary` recognises; otherwise the name is fixed and the next write reuses it.

    Raises:
        ValueError: If the path is that of a device or a pipe.
    """
    if is_special(path):
        raise ValueError(f"{path} must be a file, but is a device or a pipe, which would be replaced: choose a name.")
    temporary = temporary_name(path) if several_writers else path.with_name(path.name + TEMPORARY_SUFFIX)
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


def is_special(path: Path) -> bool:
    """Whether a path is that of a device or a pipe, as ``/dev/null`` is, which a new file would replace."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_atomically(
    path: Path, content: bytes | Iterable[bytes | memoryview], *, several_writers: bool = False
) -> None:
    """Write a file whole or not at all, replacing an older one of the same name.

    Args:
        path: The file; its folder must exist.
        content: All of it, or its parts in order.
        several_writers: As for `fill_atomically`.

    Raises:
        OSError: If the disk is full or the folder cannot be written; a full disk is named with the cure.
    """

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)

    fill_atomically(path, fill, several_writers=several_writers)


def sync(path: Path) -> None:
    """Sync a file, or the renames inside a folder, to disk, so that they survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explain_full_disk(path: Path) -> Generator[None]:
    """Turn the error of a full disk (or quota, or file size limit) into one that names the file and the cure.

    One inside another changes nothing: the file that was being written is named, and not the folder around it.
    """
    try:
        yield
    except OSError as error:
        if not lacks_cure(error):
            raise
        raise full_disk(path, error.errno or errno.ENOSPC) from error


def is_full_disk(error: OSError) -> bool:
    """Whether an error says that a disk has no room, or that a quota or limit is reached."""
    return error.errno in _FULL_DISK


def lacks_cure(error: OSError) -> bool:
    """Whether an error is that of a full disk as the system raises it, without a word on what helps."""
    return is_full_disk(error) and "free some space" not in str(error)


def full_disk(path: Path, code: int = errno.ENOSPC) -> OSError:
    """The error of a file for which there is no room, with the cure."""
    return OSError(code, f"{os.strerror(code)} while writing (cure: {_CURE})", str(path))
