"""What a user reads after an error: one line with the cure, or nothing where the error is our own."""

import errno
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from retentive.errors import RetentiveError
from retentive.extras import EXTRA_OF, missing
from retentive.files.writing import full_disk, lacks_cure

TRACEBACK = "RETENTIVE_TRACEBACK"
"""Environment variable that shows where an error was raised."""

MISTAKES = (RetentiveError, ValueError, OSError, ImportError)
"""Errors whose message is all that a user needs."""

MEMORY_OPTIONS = ("batch_size", "window", "chunk_size", "block_bytes", "workers", "side_by_side")
"""Last parts of the options that decide how much memory a command takes."""

CURES = {
    errno.EEXIST: "a file or a link that leads nowhere has that name: choose another, or remove it",
    errno.ENOENT: "it is not there: look at the path, and at links in it",
    errno.ENOTDIR: "a part of the path is a file where a folder is needed: look at the path",
    errno.EISDIR: "it is a folder where a file is needed: look at the path",
    errno.ELOOP: "links that lead to each other: choose another path or remove them",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "your account may not do that there: choose another path or change its permissions",
    errno.EPERM: "your account may not do that there: choose another path or change its permissions",
    errno.EROFS: "nothing can be written there: choose another path",
    errno.EMFILE: "allow more open files: ulimit -n",
    errno.EADDRINUSE: "another program listens there: choose another --port",
}
"""What helps, by the number of an error of the system that says nothing else."""

_ALLOCATION = re.compile(r"(?:tried to|Tried to|Unable to) allocate (?P<size>[\d.,]+ ?\w+)")


class UsageError(RetentiveError):
    """The command line names no command."""


class OutOfMemoryError(RetentiveError):
    """Memory ran out, on a CPU or a GPU."""


def explanation(error: Exception) -> str | None:
    """The line that a user reads for an error; None for an error of our own, which deserves its traceback."""
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module in EXTRA_OF and "pip install" not in str(error):
            return missing(module)
    if isinstance(error, OSError) and lacks_cure(error):
        return str(full_disk(Path(error.filename2 or error.filename or "the output"), error.errno or 0))
    if isinstance(error, OSError) and error.errno in CURES and error.strerror == os.strerror(error.errno):
        named = error.filename2 or error.filename
        return f"{f'{named}: ' if named else ''}{error.strerror} ({CURES[error.errno]})."
    return str(error) if isinstance(error, MISTAKES) else None


def is_first_to_say(line: str) -> bool:
    """Whether no other of the processes that ``torchrun`` started on this machine has said the same.

    Any of them may be the one that fails, and most mistakes are found by all. They have a folder in common, where
    torchrun keeps errors, and deletes it.
    """
    own = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not own:
        return True
    claim = Path(own).parent.parent / f"said-{hashlib.sha256(line.encode()).hexdigest()[:16]}"
    try:
        claim.open("x").close()
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # that of torch, not imported here
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "bad_alloc" in str(error))


def out_of_memory(error: BaseException, options: Iterable[str]) -> OutOfMemoryError:
    """The error that names the cure: those of a command's options that decide how much memory it takes."""
    found = _ALLOCATION.search(str(error))
    size = f" (it asked for {found['size']} more)" if found else ""
    smaller = [f"--{option}" for option in options if option.rpartition(".")[2] in MEMORY_OPTIONS]
    cure = f"make {' or '.join(smaller)} smaller, or the model" if smaller else "take a smaller model or text"
    return OutOfMemoryError(f"out of memory{size}: {cure}.")
