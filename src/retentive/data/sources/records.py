"""Records with chosen fields: the text of a document, and columns of its metadata."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from retentive.data.sources.documents import Document, Problem, text_or_problem
from retentive.data.sources.sniffing import unread_kind

_INTEGER, _DECIMAL = re.compile(r"-?(0|[1-9]\d{0,17})"), re.compile(r"-?(0|[1-9]\d*)\.\d+")
_LONGEST_CELL = (1 << 31) - 1
_HEAD = 4096
_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a record are read.

    Attributes:
        text: The one with the text.
        metadata: Those that are kept beside it.
        limit: Bytes of a text, at most.
    """

    text: str
    metadata: tuple[str, ...]
    limit: int


def document_of(record: Mapping[str, Any], name: str, fields: Fields, *, kind: str) -> Iterator[Document | Problem]:
    """The document of a record, or the problem with it.

    Args:
        record: Values by name.
        name: Name of the document.
        fields: Which are read.
        kind: What a value is called in messages: ``field`` or ``column``.
    """
    if fields.text not in record:
        yield missing_field(name, fields.text, list(record), kind)
        return
    value = record[fields.text]
    if value is None and kind == "column":
        yield Problem(name=name, kind="missing_field", message=f"column {fields.text!r} is null")
        return
    if not isinstance(value, str):
        message = f"{kind} {fields.text!r} holds {type(value).__name__}, not a string"
        yield Problem(name=name, kind="not_text", message=message)
        return
    try:
        content = value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"has half a surrogate pair (character {error.start:,}), which no UTF-8 text can hold"
        message = f"is not UTF-8 (character {error.start:,}): convert the file to UTF-8" if kind == "column" else half
        yield Problem(name=name, kind="bad_utf8", message=message)
        return
    metadata = metadata_of(record, fields.metadata)
    for column, known in metadata.items():
        if isinstance(known, str) and not _is_encodable(known):
            message = f"{kind} {column!r} holds what is not UTF-8: mend it, or choose other metadata"
            yield Problem(name=name, kind="bad_utf8", message=message)
            return
    yield from text_or_problem(content, name, limit=fields.limit, metadata=metadata)


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def metadata_of(record: Mapping[str, Any], chosen: Sequence[str]) -> dict[str, Any]:
    """Chosen values of a record: strings, numbers and truth values as they are, dates and lists as text.

    What is no number (NaN) or endless is left out: nothing can be compared with it, and JSON has no word for it.
    """
    found = {column: record[column] for column in chosen if record.get(column) is not None}
    found = {column: value for column, value in found.items() if not isinstance(value, float) or isfinite(value)}
    return {column: _plain(value) for column, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def missing_field(name: str, text: str, known: Sequence[str], kind: str) -> Problem:
    """The problem of a record or table without the field of the text."""
    found = ", ".join(map(repr, known[:8]))
    message = f"has no {kind} {text!r} (it has: {found or 'none'}): name the one with the text"
    return Problem(name=name, kind="missing_field", message=message)


def read_csv(opened: io.BufferedReader, name: str, fields: Fields, *, delimiter: str) -> Iterator[Document | Problem]:
    """The rows of a table with a header line; numbers among the metadata are numbers.

    Args:
        opened: The file, from its beginning.
        name: Name of the file.
        fields: Which columns are read.
        delimiter: What stands between cells, unless the header has the column of the text by another one.
    """
    csv.field_size_limit(max(csv.field_size_limit(), min(fields.limit + 1, _LONGEST_CELL)))
    first = opened.peek(_HEAD).partition(b"\n")[0]
    if (kind := unread_kind(first)) is not None:
        yield Problem(name=name, kind="not_text", message=f"is {kind}, not a table in UTF-8: convert it")
        return
    # A byte that is no UTF-8 spoils its row, and not the table.
    lines = io.TextIOWrapper(opened, encoding="utf-8-sig", errors="surrogateescape", newline="")
    delimiter = _delimiter(first.decode("utf-8-sig", "replace"), fields.text, delimiter)
    rows = csv.DictReader(_bounded_lines(lines, fields.limit), delimiter=delimiter, strict=True)
    number = 0
    try:
        names = list(rows.fieldnames or ())
        if (problem := column_problem(name, fields.text, names)) is not None:
            yield problem
            return
        chosen = [column for column in fields.metadata if names.count(column) == 1]
        for number, row in enumerate(rows, start=1):
            if (more := row.pop(None, None)) is not None:
                message = (
                    f"has {len(names) + len(more)} cells under {len(names)} columns: quote cells with {delimiter!r}"
                )
                yield Problem(name=f"{name}:{number}", kind="unreadable", message=message)
                continue
            known = {column: _typed(row[column]) for column in chosen if row.get(column)}
            yield from document_of(known | {fields.text: row[fields.text]}, f"{name}:{number}", fields, kind="column")
    except csv.Error as error:
        message = f"is damaged or no table, after row {number:,} ({error}): mend it"
        yield Problem(name=name, kind="unreadable", message=message)
        return
    finally:
        lines.detach()
    if number == 0:
        yield Problem(name=name, kind="empty", message="has no rows")


def column_problem(name: str, text: str, names: Sequence[str]) -> Problem | None:
    """What is wrong with the columns of a table, if anything is: that of the text must be there once."""
    if text not in names:
        return missing_field(name, text, names, "column")
    if names.count(text) > 1:
        message = f"has {names.count(text)} columns {text!r}: rename the others"
        return Problem(name=name, kind="missing_field", message=message)
    return None


def _delimiter(header: str, text: str, usual: str) -> str:
    """The usual delimiter, or the first other one by which the header has the column of the text."""
    for delimiter in (usual, *_DELIMITERS):
        if text in next(csv.reader([header.rstrip("\r")], delimiter=delimiter), []):
            return delimiter
    return usual


def _bounded_lines(lines: io.TextIOWrapper, limit: int) -> Iterator[str]:
    """The lines of a table; one of more characters than a document may have ends it."""
    while line := lines.readline(limit + 1):
        if len(line) > limit:
            raise csv.Error(f"a line has over {limit:,} characters, see max_document_bytes")
        yield line


def _typed(cell: str) -> str | int | float:
    if _INTEGER.fullmatch(cell):
        return int(cell)
    return float(cell) if _DECIMAL.fullmatch(cell) else cell
