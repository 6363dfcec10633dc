"""Reading files of many kinds, one document or problem at a time."""

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, cast

from retentive.data.sources.documents import Document, Problem, text_or_problem, too_large
from retentive.data.sources.folders import SourceFile, unreadable_reason
from retentive.data.sources.markup import html_text, pdf_text
from retentive.data.sources.parquet import read_parquet
from retentive.data.sources.parts import BombError, Part, parts_of_file, read_up_to
from retentive.data.sources.records import Fields, document_of, read_csv
from retentive.data.sources.sniffing import unread_kind

MAX_DOCUMENT_BYTES = 256 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINES, _DELIMITERS = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
_RECORDS = (*_LINES, ".parquet", *_DELIMITERS)
"""Files of records, whose text is in a field or column."""
_MOST_BYTES = 1 << 62
_BLOCK_BYTES = 8 << 20
_MARKUP = {".html": html_text, ".htm": html_text, ".xhtml": html_text, ".pdf": pdf_text}


def read_documents(
    files: list[SourceFile],
    *,
    field: str = "text",
    metadata: tuple[str, ...] = (),
    separator: str | None = None,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> Iterator[Document | Problem]:
    """Read files one record at a time; a record that cannot be used gives a `Problem` in its place.

    The end of a file's name decides how it is read: ``.jsonl`` and ``.ndjson`` hold one JSON object a line,
    ``.parquet``, ``.csv`` and ``.tsv`` a table, ``.html`` and ``.pdf`` pages whose text is taken, and all others UTF-8
    text. Any of them may be compressed (``.gz .bz2 .xz .zst``), and members of ``.tar`` and ``.zip`` are read as files.
    Memory is bounded by ``max_document_bytes`` and by the row groups of parquet files, not by the size of files.

    Args:
        files: As `list_files` gives them.
        field: Field of JSON objects, or column of tables, that holds the text.
        metadata: Fields or columns that are kept beside it.
        separator: String between the documents of one text file; ``None`` makes each file one document.
        max_document_bytes: Documents and lines of JSON above this size in bytes are reported and left out.
        on_bytes: Called with the number of source bytes read since its last call.
    """
    if not 1 <= max_document_bytes <= _MOST_BYTES:
        raise ValueError(f"max_document_bytes must be from 1 to {_MOST_BYTES:,}, but is {max_document_bytes}.")
    if separator == "":
        raise ValueError("separator must be None or a string of at least one character, but is ''.")
    fields = Fields(field, metadata, max_document_bytes)
    read: set[str] = set()
    for file in files:
        try:
            for part in parts_of_file(file, limit=max_document_bytes, on_bytes=on_bytes):
                if isinstance(part, Problem):
                    yield part
                else:
                    read.add(part.suffix)
                    yield from _read_part(part, fields, None if separator is None else separator.encode())
        except OSError as error:
            yield Problem(name=file.name, kind="unreadable", message=unreadable_reason(error))
    if read and field != "text" and read.isdisjoint(_RECORDS):
        message = f"no file has fields or columns ({' '.join(_RECORDS)})"
        yield Problem(name=f"field {field!r}", kind="missing_field", message=message, kept=True)
    if read and separator is not None and read <= {*_RECORDS, *_MARKUP}:
        yield Problem(name=f"separator {separator!r}", kind="missing_field", message="no file is plain text", kept=True)


def _read_part(part: Part, fields: Fields, separator: bytes | None) -> Iterator[Document | Problem]:
    try:
        if part.suffix in _LINES:
            yield from _read_jsonl(part, fields)
        elif part.suffix == ".parquet":
            yield from _read_table(part, fields)
        elif part.suffix in _DELIMITERS:
            yield from read_csv(part.opened, part.name, fields, delimiter=_DELIMITERS[part.suffix])
        elif part.suffix in _MARKUP:
            yield from _read_markup(part, fields.limit)
        elif separator is not None:
            yield from _read_separated(part, separator, fields.limit)
        else:
            yield from _read_text(part, fields.limit)
    except BombError as error:
        yield Problem(name=part.name, kind="too_large", message=str(error))
    except OSError as error:
        yield Problem(name=part.name, kind="unreadable", message=unreadable_reason(error))


def _whole(part: Part, limit: int) -> bytes | Problem:
    """All bytes of a part, or the problem that they are too many."""
    content = read_up_to(part.opened, limit + len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
    if len(content) <= limit:
        return content
    size = len(content)
    del content
    while block := part.opened.read(_BLOCK_BYTES):
        size += len(block)
    return too_large(part.name, f"{size:,} bytes", limit)


def _read_text(part: Part, limit: int) -> list[Document | Problem]:
    """One document, or the problem with it: a list, so that the bytes are let go before the text is used."""
    content = _whole(part, limit)
    return [content] if isinstance(content, Problem) else [*text_or_problem(content, part.name, limit=limit)]


def _read_markup(part: Part, limit: int) -> Iterator[Document | Problem]:
    content = _whole(part, limit)
    if content == b"":
        yield Problem(name=part.name, kind="empty", message="has no text")
        return
    found = content if isinstance(content, Problem) else _MARKUP[part.suffix](content, part.name, limit=limit)
    if isinstance(found, Problem):
        yield found
    else:
        text, known = found
        yield from text_or_problem(text.encode("utf-8", "replace"), part.name, limit=limit, metadata=known)


def _read_table(part: Part, fields: Fields) -> Iterator[Document | Problem]:
    if part.path is not None:
        yield from read_parquet(part.path, part.name, fields)
        return
    content = _whole(part, fields.limit)  # a table is read from its end
    if isinstance(content, Problem):
        yield content
    else:
        yield from read_parquet(io.BytesIO(content), part.name, fields)


def _read_separated(part: Part, separator: bytes, limit: int) -> Iterator[Document | Problem]:
    """Read the documents between separators; empty ones, as after a closing separator, are skipped."""
    number = 0
    for content, size in _cut(part.opened, separator, limit):
        number += 1
        if size > limit:
            yield too_large(f"{part.name}:{number}", f"{size:,} bytes", limit)
        elif content:
            yield from text_or_problem(content, f"{part.name}:{number}", limit=limit)
    if number == 0:
        yield Problem(name=part.name, kind="empty", message="has no text")


def _cut(opened: io.BufferedIOBase, separator: bytes, limit: int) -> Iterator[tuple[bytes, int]]:
    """The parts between separators with their sizes in bytes; of a part above the limit only the size is valid."""
    dropped = 0
    rest = opened.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
    while block := opened.read(_BLOCK_BYTES):
        *parts, rest = (rest + block).split(separator)
        for part in parts:
            yield part, dropped + len(part)
            dropped = 0
        if len(rest) > limit + len(separator):  # keep what may be the start of a separator
            keep = len(separator) - 1
            dropped += len(rest) - keep
            rest = rest[len(rest) - keep :]
    if separator in rest:  # all of it was read with the mark
        *parts, rest = rest.split(separator)
        yield from ((part, len(part)) for part in parts)
    if rest or dropped:
        yield rest, dropped + len(rest)


def _read_jsonl(part: Part, fields: Fields) -> Iterator[Document | Problem]:
    number = 0
    first = part.opened.readline(fields.limit + 1 + len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
    for line in chain([first] if first else [], iter(partial(part.opened.readline, fields.limit + 1), b"")):
        number += 1
        name, size = f"{part.name}:{number}", len(line)
        if size > fields.limit:
            size += _skip_line(part.opened, line)
            yield too_large(name, f"a line of {size:,} bytes", fields.limit)
        elif number == 1 and (kind := unread_kind(line)) is not None:
            yield Problem(name=part.name, kind="not_text", message=f"is {kind}, not JSON in UTF-8: convert it")
            return
        elif line.strip():
            yield from _read_record(line, name, fields)
    if number == 0:
        yield Problem(name=part.name, kind="empty", message="has no lines")


def _skip_line(opened: io.BufferedIOBase, begin: bytes) -> int:
    """Skip the rest of a line, block by block; return the number of bytes skipped."""
    skipped, last = 0, begin
    while last and not last.endswith(b"\n"):
        last = opened.readline(_BLOCK_BYTES)
        skipped += len(last)
    return skipped


def _read_record(line: bytes, name: str, fields: Fields) -> Iterator[Document | Problem]:
    try:
        record: object = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 (byte {error.start:,} of the line): convert the file to UTF-8"
        yield Problem(name=name, kind="bad_utf8", message=message)
        return
    except (ValueError, RecursionError) as error:
        yield Problem(name=name, kind="bad_json", message=f"is not JSON ({error}): mend or remove the line")
        return
    if not isinstance(record, dict):
        message = f"has no field {fields.text!r} (it has: none, as it is no object): name the one with the text"
        yield Problem(name=name, kind="missing_field", message=message)
        return
    yield from document_of(cast("dict[str, Any]", record), name, fields, kind="field")
