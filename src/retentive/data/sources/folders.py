"""The files of a source: what a folder holds, chosen by globs."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from retentive.data.sources.documents import Problem
from retentive.files import display_name

EVERY_FILE = "**/*"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file to read: where it is, its printable name relative to the source, its size and time of change (ns)."""

    path: Path
    name: str
    size: int
    modified: int


def list_files(source: Path, *, pattern: str = EVERY_FILE, exclude: str = "") -> tuple[list[SourceFile], list[Problem]]:
    """List the files of a source, sorted by name, and the problems of those that cannot be read.

    Args:
        source: A folder, or one file.
        pattern: Globs relative to the folder, separated by commas; ``**`` is any number of folders. Hidden files and
            folders are left out unless a glob names the dot. Links to folders are reported, not followed.
        exclude: Globs of files and whole folders to leave out, as in ``**/site-packages,**/test``.

    Raises:
        FileNotFoundError: If there is no such source.
        ValueError: If patterns are given for one file.
    """
    if not source.exists():
        raise FileNotFoundError(f"source {str(source)!r} does not exist: give a folder or a file of text.")
    if not source.is_dir():
        if pattern != EVERY_FILE or exclude:
            raise ValueError(f"pattern and exclude choose files of a folder, but source {str(source)!r} is one file.")
        found = _inspect(source, display_name(source.name))
        return ([found], []) if isinstance(found, SourceFile) else ([], [found])
    wanted, unwanted = _parse_globs(pattern, "pattern"), _parse_globs(exclude, "exclude")
    files: list[SourceFile] = []
    problems: list[Problem] = []
    for relative, found in _walk(source, wanted, unwanted):
        if isinstance(found, Problem):
            problems.append(found)
        elif any(_matches(relative, glob) for glob in wanted):
            inspected = _inspect(found, display_name("/".join(relative)))
            files.append(inspected) if isinstance(inspected, SourceFile) else problems.append(inspected)
    return sorted(files, key=lambda file: file.name), sorted(problems, key=lambda problem: problem.name)


def _walk(
    folder: Path, wanted: list[tuple[str, ...]], unwanted: list[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], Path | Problem]]:
    """Every file below a folder that is not excluded, with the parts of its relative path."""
    failed: list[OSError] = []
    with_hidden = any(part.startswith(".") for glob in wanted for part in glob)
    for place, folders, names in os.walk(folder, onerror=failed.append):
        parts = Path(place).relative_to(folder).parts
        for name in list(folders):
            below = (*parts, name)
            if any(_matches(below, glob) for glob in unwanted) or (name.startswith(".") and not with_hidden):
                folders.remove(name)
            elif Path(place, name).is_symlink():
                message = "is a link to a folder, which is not followed (it could loop): give that folder as source"
                yield below, Problem(name=display_name("/".join(below)), kind="unreadable", message=message)
        for name in names:
            if not any(_matches((*parts, name), glob) for glob in unwanted):
                yield (*parts, name), Path(place, name)
    for error in failed:
        relative = Path(error.filename).relative_to(folder)
        yield (
            relative.parts,
            Problem(name=display_name(str(relative)), kind="unreadable", message=unreadable_reason(error)),
        )


def _inspect(path: Path, name: str) -> SourceFile | Problem:
    try:
        status = path.stat()
    except OSError as error:
        reason = "is a link to nothing" if path.is_symlink() else unreadable_reason(error)
        return Problem(name=name, kind="unreadable", message=reason)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        return Problem(name=name, kind="unreadable", message="is not a regular file")
    return SourceFile(path=path, name=name, size=status.st_size, modified=status.st_mtime_ns)


def _parse_globs(globs: str, argument: str) -> list[tuple[str, ...]]:
    found = [tuple(glob.strip().split("/")) for glob in globs.split(",") if glob.strip()]
    for glob in found:
        if "" in glob or ".." in glob:
            raise ValueError(f"{argument} takes globs relative to the source, but has {'/'.join(glob)!r}.")
    if argument == "pattern" and not found:
        raise ValueError(f"pattern must hold a glob such as '**/*.txt', but is {globs!r}.")
    return found


def name_matcher(globs: str, argument: str) -> Callable[[str], bool]:
    """A test of whether a document's name fits one of some globs, by the file that it is of.

    Raises:
        ValueError: If a glob is none, naming the argument.
    """
    wanted = _parse_globs(globs, argument)
    if not wanted:
        raise ValueError(f"{argument} must hold a glob such as 'folder/**', but is {globs!r}.")

    def fits(name: str) -> bool:
        file, _, number = name.rpartition(":")
        parts = tuple((file if file and number.isdigit() else name).split("/"))
        return any(_matches(parts, glob) for glob in wanted)

    return fits


def _matches(parts: tuple[str, ...], glob: tuple[str, ...]) -> bool:
    """Whether a relative path fits a glob; wildcards pass over names that begin with a dot."""
    if not glob or not parts:
        return not parts and all(part == "**" for part in glob)
    if glob[0] == "**":
        return _matches(parts, glob[1:]) or (not parts[0].startswith(".") and _matches(parts[1:], glob))
    hidden = parts[0].startswith(".") and not glob[0].startswith(".")
    return not hidden and fnmatchcase(parts[0], glob[0]) and _matches(parts[1:], glob[1:])


def unreadable_reason(error: OSError) -> str:
    """The message of a problem with a file that cannot be opened or read."""
    return f"cannot be read: {error.strerror or error}"
