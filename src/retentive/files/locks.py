"""Locks on folders: one writer at a time."""

import errno
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_ATTEMPTS = 5
_PAUSE = 0.02
"""Seconds: `has_writer` holds a lock for an instant."""


@contextmanager
def only_writer(folder: Path) -> Generator[None]:
    """Lock a folder against other writers; the system releases the lock when the process ends, however it ends.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    import fcntl  # absent on Windows, where a store can still be read

    handle = os.open(folder, os.O_RDONLY)
    try:
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if attempt + 1 == _ATTEMPTS:
                    message = "another process is writing to this folder"
                    cure = "wait for it to end or choose another output folder"
                    raise BlockingIOError(errno.EWOULDBLOCK, f"{message}; {cure}", str(folder)) from error
                time.sleep(_PAUSE)
        yield
    finally:
        os.close(handle)


def has_writer(folder: Path) -> bool:
    """Whether another process writes to a folder now."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        # Held for an instant, which `only_writer` waits out.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)
