"""Reading text files, JSONL and parquet, one document or problem at a time."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, cast

from retentive.data.sources.documents import Document, Problem, text_or_problem, too_large
from retentive.data.sources.folders import SourceFile, unreadable_reason
from retentive.data.sources.parquet import read_parquet

MAX_DOCUMENT_BYTES = 256 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK_BYTES = 8 << 20


def read_documents(
    files: list[SourceFile],
    *,
    field: str = "text",
    separator: str | None = None,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> Iterator[Document | Problem]:
    """Read files one record at a time; a record that cannot be used gives a `Problem` in its place.

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
        read = _read_text if separator is None else partial(_read_separated, separator=separator.encode())
        if file.path.suffix.lower() in {".jsonl", ".ndjson"}:
            read = partial(_read_jsonl, field=field)
        elif file.path.suffix.lower() == ".parquet":
            read = partial(read_parquet, field=field)
        try:
            yield from read(file, limit=max_document_bytes, on_bytes=on_bytes)
        except OSError as error:
            yield Problem(name=file.name, kind="unreadable", message=unreadable_reason(error))


def _read_text(file: SourceFile, *, limit: int, on_bytes: Callable[[int], object]) -> Iterator[Document | Problem]:
    with file.path.open("rb") as opened:
        size = file.size - _skip_mark(opened)
        if size > limit:
            yield too_large(file.name, f"{size:,} bytes", limit)
        else:
            yield from text_or_problem(opened.read(limit + 1), file.name, limit=limit)
    on_bytes(file.size)


def _read_separated(
    file: SourceFile, *, separator: bytes, limit: int, on_bytes: Callable[[int], object]
) -> Iterator[Document | Problem]:
    """Read the documents between separators; empty ones, as after a closing separator, are skipped."""
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
    """The parts between separators with their sizes in bytes; of a part above the limit only the size is valid."""
    rest, dropped = b"", 0
    with file.path.open("rb") as opened:
        on_bytes(_skip_mark(opened))
        while block := opened.read(_BLOCK_BYTES):
            on_bytes(len(block))
            *parts, rest = (rest + block).split(separator)
            for part in parts:
                yield part, dropped + len(part)
                dropped = 0
            if len(rest) > limit + len(separator):  # keep what may be the start of a separator
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
        on_bytes(_skip_mark(opened))
        while line := opened.readline(limit + 1):
            number += 1
            name, size = f"{file.name}:{number}", len(line)
            if size > limit:
                size += _skip_line(opened, line)
                yield too_large(name, f"a line of {size:,} bytes", limit)
            elif line.strip():
                yield from _read_record(line, name, field, limit)
            on_bytes(size)
    if number == 0:
        yield Problem(name=file.name, kind="empty", message="has no lines")


def _skip_mark(opened: IO[bytes]) -> int:
    """Skip a byte order mark, which is not part of the text; return the number of bytes skipped."""
    if opened.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
        return len(BYTE_ORDER_MARK)
    opened.seek(0)
    return 0


def _skip_line(opened: IO[bytes], begin: bytes) -> int:
    """Skip the rest of a line, block by block; return the number of bytes skipped."""
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
