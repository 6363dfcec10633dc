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

_INTEGER, _DECIMAL = re.compile(r"-?(0|[1-9]\d{0,17})"), re.compile(r"-?(0|[1-9]\d*)\.\d+")
_LONGEST_CELL = (1 << 31) - 1


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
        message = f"has half a surrogate pair (character {error.start:,}), which no UTF-8 text can hold"
        yield Problem(name=name, kind="bad_utf8", message=message)
        return
    yield from text_or_problem(content, name, limit=fields.limit, metadata=metadata_of(record, fields.metadata))


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


def read_csv(opened: Any, name: str, fields: Fields, *, delimiter: str) -> Iterator[Document | Problem]:
    """The rows of a table with a header line; numbers among the metadata are numbers."""
    csv.field_size_limit(max(csv.field_size_limit(), min(fields.limit + 1, _LONGEST_CELL)))
    lines = io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")
    rows = csv.DictReader(_bounded_lines(lines, fields.limit), delimiter=delimiter, strict=True)
    number = 0
    try:
        if fields.text not in (known := list(rows.fieldnames or ())):
            yield missing_field(name, fields.text, known, "column")
            return
        for number, row in enumerate(rows, start=1):
            known = {column: _typed(row[column]) for column in fields.metadata if row.get(column)}
            yield from document_of(known | {fields.text: row[fields.text]}, f"{name}:{number}", fields, kind="column")
    except (csv.Error, UnicodeDecodeError) as error:
        message = f"is damaged or no UTF-8 table, after row {number:,} ({error}): mend it"
        yield Problem(name=name, kind="unreadable", message=message)
        return
    finally:
        lines.detach()
    if number == 0:
        yield Problem(name=name, kind="empty", message="has no rows")


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
