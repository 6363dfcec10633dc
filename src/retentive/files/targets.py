"""Checks before long work: whether its output can be written."""

import tempfile
from pathlib import Path

from retentive.files.names import is_temporary
from retentive.files.writing import is_special


def check_file_target(option: str, path: Path, *, suggestion: str) -> None:
    """Raise unless a file can be written; nothing is left behind.

    Args:
        option: The option that names the file, for messages.
        path: The file; its folder need not exist yet.
        suggestion: A name for it, for who gives a folder.

    Raises:
        ValueError: If ``path`` is a folder, a device, a pipe, below a file, or where this process may not write.
    """
    if path.is_dir():
        raise ValueError(f"{option} must be a file, but {path} is a folder: give {path / suggestion}.")
    if is_special(path):
        raise ValueError(
            f"{option} must be a file, but {path} is a device or a pipe, which would be replaced: choose another name."
        )
    folder = _nearest(path.parent)
    if not folder.is_dir():
        raise ValueError(f"{option} must be a file in a folder, but {folder} is a file: choose another name.")
    _try(option, folder)


def check_folder_target(option: str, path: Path) -> None:
    """Raise unless files can be written into a folder, which need not exist yet; nothing is left behind.

    Raises:
        ValueError: If ``path`` is a file, is below one, or is where this process may not write.
    """
    folder = _nearest(path)
    if not folder.is_dir():
        raise ValueError(f"{option} must be a folder, but {folder} is a file: choose another name.")
    _try(option, folder)


def check_new_folder(option: str, path: Path) -> None:
    """Raise unless a folder can be made, or is there and empty but for what a killed process left.

    Raises:
        FileExistsError: If it holds something, or is a file.
        ValueError: If it cannot be written.
    """
    if path.exists() and (not path.is_dir() or not all(map(is_temporary, path.iterdir()))):
        raise FileExistsError(f"{option} must be a new or empty folder, but {path} holds something; choose another.")
    check_folder_target(option, path)


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.exists()), Path())


def _try(option: str, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} must be where this process can write, but {folder} is not ({error.strerror}): choose another "
            "folder."
        ) from error
