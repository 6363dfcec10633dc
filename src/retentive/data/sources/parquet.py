"""Documents from a column of a parquet file, row group by row group."""

from collections.abc import Iterator
from typing import Any

from retentive.data.sources.documents import Document, Problem, text_or_problem
from retentive.data.sources.records import Fields, column_problem, metadata_of

_ROWS_AT_A_TIME = 256
_TEXTS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "fixed_size_binary")
"""Types of columns that may hold text."""


def read_parquet(source: Any, name: str, fields: Fields) -> Iterator[Document | Problem]:
    """Read a column of text and those of metadata; a damaged file gives the rows before the damage and one problem.

    Args:
        source: A path, or a file that can seek.
        name: Name of the file.
        fields: Which columns are read; those of metadata need not be there.

    Raises:
        ImportError: If pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        message = f"reading {name} needs the package pyarrow: pip install 'retentive[train]'"
        raise ImportError(message) from error
    row = 0
    try:
        with parquet.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20) as table:
            if (problem := _column_problem(arrow, table.schema_arrow, name, fields.text)) is not None:
                yield problem
                return
            chosen = [column for column in fields.metadata if table.schema_arrow.names.count(column) == 1]
            for batch in table.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=[fields.text, *chosen]):
                for place, content in enumerate(_contents(arrow, batch.column(fields.text))):
                    row += 1
                    if content is None:
                        message = f"column {fields.text!r} is null"
                        yield Problem(name=f"{name}:{row}", kind="missing_field", message=message)
                        continue
                    record, problems = _record(batch, chosen, place, f"{name}:{row}")
                    yield from problems
                    if all(problem.kept for problem in problems):
                        metadata = metadata_of(record, chosen)
                        yield from text_or_problem(content, f"{name}:{row}", limit=fields.limit, metadata=metadata)
            if row == 0:
                yield Problem(name=name, kind="empty", message="has no rows")
    except (arrow.ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"is damaged or not parquet, after row {row:,} ({first_line}): fetch or write it again"
        yield Problem(name=name, kind="unreadable", message=message)


def _column_problem(arrow: Any, schema: Any, name: str, field: str) -> Problem | None:
    if (problem := column_problem(name, field, schema.names)) is not None:
        return problem
    kind = schema.field(field).type
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    if any(getattr(arrow.types, f"is_{text}")(kind) for text in _TEXTS):
        return None
    return Problem(name=name, kind="not_text", message=f"column {field!r} holds {kind}, not strings")


def _record(batch: Any, columns: list[str], place: int, name: str) -> tuple[dict[str, Any], list[Problem]]:
    """Values of a row, and what is wrong with those that Python cannot hold."""
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for column in columns:
        try:
            found[column] = batch.column(column)[place].as_py()
        except UnicodeDecodeError:
            message = f"column {column!r} holds what is not UTF-8: mend it, or choose other metadata"
            problems.append(Problem(name=name, kind="bad_utf8", message=message))
        except (ValueError, OverflowError) as error:  # nanoseconds, or a year beyond 9999
            message = f"column {column!r} is left out of the metadata, for it cannot be read ({error})"
            problems.append(Problem(name=name, kind="altered", message=message, kept=True))
    return found, problems


def _contents(arrow: Any, column: Any) -> Iterator[bytes | None]:
    """Values as bytes; read as strings, a row that is not UTF-8 would fail its whole batch."""
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for value in column.cast(arrow.large_binary()):
        yield value.as_py()
