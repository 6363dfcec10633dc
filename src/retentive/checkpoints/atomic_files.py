"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder."""

import errno
import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, bring it safely to disk and rename it over ``path``.

    Whatever goes wrong, and whenever the process is killed, ``path`` is what it was before or all of the new content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file, or the renames inside a folder, safely to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritten(path: Path, reason: object) -> OSError:
    """The error of a write that failed, with the cure; ``ENOSPC`` where the reason tells of a full disk."""
    full = any(f"os error {code}" in str(reason) for code in (errno.ENOSPC, errno.EDQUOT))
    full = full or (isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT))
    cure = "nothing half-written was kept, and an earlier file is as it was; free some space or choose another disk"
    return OSError(errno.ENOSPC if full else errno.EIO, f"could not be written ({reason}); {cure}", str(path))
