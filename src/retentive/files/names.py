"""Names of files: temporary ones, and how any name is printed."""

import os
import re
import uuid
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no finished file has and no other process chooses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder has a name from `temporary_name`: its writer was stopped, or is still at work."""
    return re.fullmatch(r"\..+\.[0-9a-f]{32}\.tmp", path.name) is not None


def display_name(name: str) -> str:
    """A file name on one line that can be printed and written as UTF-8, whatever its bytes are."""
    printable = os.fsencode(name).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda match: repr(match.group())[1:-1], printable)
