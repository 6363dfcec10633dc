"""Text from the outside: folders, text files, JSONL and parquet, as documents and problems, one at a time."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, cast

from retentive.files import display_name

EVERY_FILE = "**/*"
HUGE_LINE_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 256 << 20
_BLOCK_BYTES = 8 << 20

ProblemKind = Literal[
    "unreadable",
    "empty",
    "bad_utf8",
    "too_large",
    "huge_line",  # kept
    "bad_json",
    "missing_field",
    "not_text",
    "not_encodable",
    "altered",  # kept
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text.

    Attributes:
        name: Path relative to the source, then ``:number`` where a file holds many (line, row or piece, from 1).
        text: The text as it stands in the file: line ends and a byte order mark included.
    """

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one file or record.

    Attributes:
        name: As in `Document`.
        kind: For counting.
        message: What was found and what helps.
        kept: True if the document is used all the same; False if it is left out.
    """

    name: str
    kind: ProblemKind
    message: str
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file to read: where it is, its printable name relative to the source, its size and time of change (ns)."""

    path: Path
    name: str
    size: int
    modified: int


def list_files(source: Path, *, pattern: str = EVERY_FILE, exclude: str = "") -> tuple[list[SourceFile], list[Problem]]:
    """Find the files of a source, sorted by name, and what cannot be read among them.

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


def read_documents(
    files: list[SourceFile],
    *,
    field: str = "text",
    separator: str | None = None,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> Iterator[Document | Problem]:
    """Read files one record at a time; what cannot be used comes as a `Problem` in its place, and reading goes on.

    The end of a file's name decides how it is read: ``.jsonl`` and ``.ndjson`` hold one JSON object a line,
    ``.parquet`` a table, and all others are UTF-8 text. Memory is bounded by ``max_document_bytes`` and by the row
    groups of parquet files, not by the size of files.

    Args:
        files: As `list_files` gives them.
        field: Field of JSON objects, or column of tables, that holds the text.
        separator: String between the documents of one text file; ``None`` makes each file one document.
        max_document_bytes: Documents and lines of JSON above this size in bytes are reported and left out.
        on_bytes: Called with the number of source bytes read since its last call.
    """
    if max_document_bytes < 1:
        raise ValueError(f"max_document_bytes must be at least 1 byte, but is {max_document_bytes}.")
    if separator == "":
        raise ValueError("separator must be None or a string of at least one character, but is ''.")
    for file in files:
        read = _read_text if separator is None else partial(_read_pieces, separator=separator.encode())
        if file.path.suffix.lower() in {".jsonl", ".ndjson"}:
            read = partial(_read_jsonl, field=field)
        elif file.path.suffix.lower() == ".parquet":
            from retentive.data.parquet import read_parquet

            read = partial(read_parquet, field=field)
        try:
            yield from read(file, limit=max_document_bytes, on_bytes=on_bytes)
        except OSError as error:
            yield Problem(name=file.name, kind="unreadable", message=_reason(error))


def text_or_problem(content: bytes, name: str, *, limit: int) -> Iterator[Document | Problem]:
    """One document from its bytes, or the reason why not."""
    if not content:
        yield Problem(name=name, kind="empty", message="has no text")
        return
    if len(content) > limit:
        yield too_large(name, f"{len(content):,} bytes", limit)
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at offset {error.start:,}"
        message = f"is not UTF-8 ({where}): convert it to UTF-8, or exclude it"
        yield Problem(name=name, kind="bad_utf8", message=message)
        return
    longest = _longest_line(content)
    if longest > HUGE_LINE_BYTES:
        message = f"has a line of {longest:,} bytes, which is seldom text: kept; exclude the file if it is data"
        yield Problem(name=name, kind="huge_line", message=message, kept=True)
    yield Document(name=name, text=text)


def too_large(name: str, size: str, limit: int) -> Problem:
    """The problem of a document above the limit."""
    message = f"has {size}, above max_document_bytes={limit:,}: split it (see separator), or raise the limit"
    return Problem(name=name, kind="too_large", message=message)


def _read_text(file: SourceFile, *, limit: int, on_bytes: Callable[[int], object]) -> Iterator[Document | Problem]:
    if file.size > limit:
        yield too_large(file.name, f"{file.size:,} bytes", limit)
    else:
        with file.path.open("rb") as opened:
            yield from text_or_problem(opened.read(limit + 1), file.name, limit=limit)
    on_bytes(file.size)


def _read_pieces(
    file: SourceFile, *, separator: bytes, limit: int, on_bytes: Callable[[int], object]
) -> Iterator[Document | Problem]:
    """The documents between separators; empty pieces, as after a closing separator, are passed over."""
    number = 0
    for content, size in _cut(file, separator, limit, on_bytes):
        number += 1
        if size > limit:
            yield too_large(f"{file.name}:{number}", f"{size:,} bytes", limit)
        elif content:
            yield from text_or_problem(content, f"{file.name}:{number}", limit=limit)
    if number == 0:
        yield Problem(name=file.name, kind="empty", message="has no text")


def _cut(
    file: SourceFile, separator: bytes, limit: int, on_bytes: Callable[[int], object]
) -> Iterator[tuple[bytes, int]]:
    """Each piece and its size in bytes; of a piece above the limit only the size is right."""
    rest, dropped = b"", 0
    with file.path.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            on_bytes(len(block))
            *pieces, rest = (rest + block).split(separator)
            for piece in pieces:
                yield piece, dropped + len(piece)
                dropped = 0
            if len(rest) > limit + len(separator):  # keep what may be the begin of a separator
                keep = len(separator) - 1
                dropped += len(rest) - keep
                rest = rest[len(rest) - keep :]
    if rest or dropped:
        yield rest, dropped + len(rest)


def _read_jsonl(
    file: SourceFile, *, field: str, limit: int, on_bytes: Callable[[int], object]
) -> Iterator[Document | Problem]:
    number = 0
    with file.path.open("rb") as opened:
        while line := opened.readline(limit + 1):
            number += 1
            name, size = f"{file.name}:{number}", len(line)
            if size > limit:
                size += _skip_line(opened, line)
                yield too_large(name, f"a line of {size:,} bytes", limit)
            elif line.strip():
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no part of JSON
                yield from _read_record(line, name, field, limit)
            on_bytes(size)
    if number == 0:
        yield Problem(name=file.name, kind="empty", message="has no lines")


def _skip_line(opened: IO[bytes], begin: bytes) -> int:
    """Read to the end of a line in pieces; how many bytes that were."""
    skipped, last = 0, begin
    while last and not last.endswith(b"\n"):
        last = opened.readline(_BLOCK_BYTES)
        skipped += len(last)
    return skipped


def _read_record(line: bytes, name: str, field: str, limit: int) -> Iterator[Document | Problem]:
    try:
        record: object = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 (byte {error.start:,} of the line): convert the file to UTF-8"
        yield Problem(name=name, kind="bad_utf8", message=message)
        return
    except (ValueError, RecursionError) as error:
        yield Problem(name=name, kind="bad_json", message=f"is not JSON ({error}): mend or remove the line")
        return
    if not isinstance(record, dict) or field not in record:
        found = ", ".join(map(repr, list(cast("dict[str, Any]", record))[:8])) if isinstance(record, dict) else ""
        message = f"has no field {field!r} (it has: {found or 'none, as it is no object'}): name the one with the text"
        yield Problem(name=name, kind="missing_field", message=message)
        return
    value = cast("dict[str, Any]", record)[field]
    if not isinstance(value, str):
        message = f"field {field!r} holds {type(value).__name__}, not a string"
        yield Problem(name=name, kind="not_text", message=message)
        return
    try:
        content = value.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"has half a surrogate pair (character {error.start:,}), which no UTF-8 text can hold"
        yield Problem(name=name, kind="bad_utf8", message=message)
        return
    yield from text_or_problem(content, name, limit=limit)


def _longest_line(content: bytes) -> int:
    if len(content) <= HUGE_LINE_BYTES:  # as nearly always; spares the search
        return 0
    longest = begin = 0
    while (end := content.find(b"\n", begin)) >= 0:
        longest, begin = max(longest, end - begin), end + 1
    return max(longest, len(content) - begin)


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
        yield relative.parts, Problem(name=display_name(str(relative)), kind="unreadable", message=_reason(error))


def _inspect(path: Path, name: str) -> SourceFile | Problem:
    try:
        status = path.stat()
    except OSError as error:
        reason = "is a link to nothing" if path.is_symlink() else _reason(error)
        return Problem(name=name, kind="unreadable", message=reason)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
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


def _matches(parts: tuple[str, ...], glob: tuple[str, ...]) -> bool:
    """Whether a relative path fits a glob; wildcards pass over names that begin with a dot."""
    if not glob or not parts:
        return not parts and all(part == "**" for part in glob)
    if glob[0] == "**":
        return _matches(parts, glob[1:]) or (not parts[0].startswith(".") and _matches(parts[1:], glob))
    hidden = parts[0].startswith(".") and not glob[0].startswith(".")
    return not hidden and fnmatchcase(parts[0], glob[0]) and _matches(parts[1:], glob[1:])


def _reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
