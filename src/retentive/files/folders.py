"""Folders that are whole or absent, whichever of several processes writes them."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from retentive.files.names import is_temporary, temporary_name
from retentive.files.writing import explain_full_disk, sync


@contextmanager
def folder_written_atomically(path: Path) -> Generator[Path]:
    """Yield an empty folder to fill; it is renamed to ``path`` if the block succeeds and removed if it fails."""
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
    """Remove a file, or a folder: the folder is renamed first, so that a kill never leaves half of it in its place."""
    if path.is_dir() and not path.is_symlink():
        doomed = path if is_temporary(path) else temporary_name(path)
        if doomed != path:
            path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)
