"""Locks on folders: one writer at a time."""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Lock a folder against other writers; the system releases the lock when the process ends, however it ends.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    import fcntl  # absent on Windows, where a store can still be read

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
