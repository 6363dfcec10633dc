"""A source of text: its documents one at a time, and notes of those that cannot be used."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retentive.config_types import check_count, check_types
from retentive.data.sources.documents import Document, Problem
from retentive.data.sources.folders import list_files
from retentive.data.sources.reading import read_documents


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Which text.

    Args:
        source: A folder of text, or one file. Files named .jsonl or .ndjson hold a JSON object a line, those named
            .parquet, .csv or .tsv a table, .html and .pdf pages whose text is taken; all others are UTF-8 text, one
            document each. Compressed files (.gz .bz2 .xz .zst) and members of .tar and .zip are read like any other.
        pattern: Which files of a folder: globs relative to it, separated by commas; ** is any number of folders.
            Hidden files are left out unless a glob names the dot.
        exclude: Which files and whole folders to leave out, as in "**/site-packages,**/test".
        field: Field of JSON objects, or column of tables, that holds the text.
        metadata: Fields or columns that are kept with each document, separated by commas, as in "title,year"; a search
            can ask for them.
        separator: String between the documents of one text file. Without it each file is one document.
        max_document_bytes: Documents and lines of JSON above this size in bytes are not used.
        on_error: What happens when a document cannot be used (unreadable, no UTF-8, too large): "skip" leaves it out
            and says so, "stop" ends the build, which can be started again once it is mended.
    """

    source: Path
    pattern: str = "**/*"
    exclude: str = ""
    field: str = "text"
    metadata: str = ""
    separator: str | None = None
    max_document_bytes: int = 256 << 20
    on_error: Literal["skip", "stop"] = "skip"

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_count("max_document_bytes", self.max_document_bytes, unit="byte")


class TextSource:
    """The documents of a source, read one at a time; what cannot be used is left out and noted, or stops the reading.

    Attributes:
        total_bytes: Size of all files.
        read_bytes: Bytes of files that were read so far.
        problems: A line for each document that was left out, or is used although it looks strange.
        unusable: Names of the documents that were left out, but for empty ones.
    """

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._files, self._unlisted = list_files(config.source, pattern=config.pattern, exclude=config.exclude)
        if not self._files and not self._unlisted:
            raise ValueError(
                f"pattern {config.pattern!r} (exclude {config.exclude!r}) finds no file in {config.source}."
            )
        self.total_bytes = sum(file.size for file in self._files)
        self.read_bytes = 0
        self.problems: list[str] = []
        self.unusable: list[str] = []

    def __iter__(self) -> Iterator[Document]:
        """Documents in the order of their names."""
        self.read_bytes, self.problems, self.unusable = 0, [], []
        for problem in self._unlisted:
            self._note(problem)
        config = self._config
        chosen = tuple(column.strip() for column in config.metadata.split(",") if column.strip())
        missing = set(chosen)
        reading = read_documents(
            self._files,
            field=config.field,
            metadata=chosen,
            separator=config.separator,
            max_document_bytes=config.max_document_bytes,
            on_bytes=self._count,
        )
        for found in reading:
            if isinstance(found, Document):
                missing -= found.metadata.keys()
                yield found
            else:
                self._note(found)
        self.problems += [f"metadata {column!r}: no document has it" for column in chosen if column in missing]

    def _count(self, size: int) -> None:
        self.read_bytes += size

    def _note(self, problem: Problem) -> None:
        line = f"{problem.name}: {problem.message}"
        if self._config.on_error == "stop" and not problem.kept and problem.kind != "empty":
            raise ValueError(f"{line}; finished blocks are kept (on_error=skip leaves such documents out).")
        self.problems.append(line)
        if not problem.kept and problem.kind != "empty":
            self.unusable.append(problem.name)
