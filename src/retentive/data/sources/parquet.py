"""Documents from a column of a parquet file, row group by row group."""

from collections.abc import Callable, Iterator
from typing import Any

from retentive.data.sources.documents import Document, Problem, text_or_problem
from retentive.data.sources.folders import SourceFile

_ROWS_AT_A_TIME = 256


def read_parquet(
    file: SourceFile, *, field: str, limit: int, on_bytes: Callable[[int], object]
) -> Iterator[Document | Problem]:
    """Read one column of text; a damaged file gives the rows before the damage and one problem.

    Raises:
        ImportError: If pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        message = f"reading {file.name} needs the package pyarrow: pip install 'retentive[train]'"
        raise ImportError(message) from error
    row = read = 0
    try:
        with parquet.ParquetFile(file.path, pre_buffer=False, buffer_size=1 << 20) as table:
            if (problem := _column_problem(arrow, table.schema_arrow, file.name, field)) is not None:
                yield problem
                return
            total = table.metadata.num_rows
            for batch in table.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=[field]):
                for content in _contents(arrow, batch.column(0)):
                    row += 1
                    name = f"{file.name}:{row}"
                    if content is None:
                        yield Problem(name=name, kind="missing_field", message=f"column {field!r} is null")
                    else:
                        yield from text_or_problem(content, name, limit=limit)
                done = file.size * row // total
                on_bytes(done - read)
                read = done
            if row == 0:
                yield Problem(name=file.name, kind="empty", message="has no rows")
    except (arrow.ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"is damaged or not parquet, after row {row:,} ({first_line}): fetch or write it again"
        yield Problem(name=file.name, kind="unreadable", message=message)
    on_bytes(file.size - read)


def _column_problem(arrow: Any, schema: Any, name: str, field: str) -> Problem | None:
    if field not in schema.names:
        found = ", ".join(map(repr, schema.names[:8]))
        message = f"has no column {field!r} (it has: {found}): name the one with the text"
        return Problem(name=name, kind="missing_field", message=message)
    kind = schema.field(field).type
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = (arrow.types.is_string, arrow.types.is_large_string, arrow.types.is_binary, arrow.types.is_large_binary)
    if any(test(kind) for test in is_text):
        return None
    return Problem(name=name, kind="not_text", message=f"column {field!r} holds {kind}, not strings")


def _contents(arrow: Any, column: Any) -> Iterator[bytes | None]:
    """Values as bytes; read as strings, a row that is not UTF-8 would fail its whole batch."""
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for value in column.cast(arrow.large_binary()):
        yield value.as_py()
