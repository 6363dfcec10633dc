"""Where a path leads."""

import os
from pathlib import Path


def real_path(path: Path) -> Path:
    """The absolute path without links. Of links that lead to each other, which cannot be opened, the path itself.

    ``Path.resolve`` raises a ``RuntimeError`` for those before Python 3.13, which tells no user what to do.
    """
    return Path(os.path.realpath(path))
