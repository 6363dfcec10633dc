"""What a build asks of the documents that it is given, besides names and texts."""

from collections.abc import Container, Iterable, Iterator, Sequence, Sized
from typing import Protocol, runtime_checkable

from retentive.files.progress import with_progress
from retentive.retrieval.blocks.chunking import Document
from retentive.retrieval.manifest import ChunkBlock, Manifest


@runtime_checkable
class MeasuredDocuments(Protocol):
    """Documents without a known count that tell how many bytes are read, for the progress bar.

    Attributes:
        total_bytes: Of the sources.
        read_bytes: So far.
    """

    total_bytes: int
    read_bytes: int


@runtime_checkable
class NotedDocuments(Protocol):
    """Documents that note what they could not read.

    Attributes:
        problems: A line for each document that cannot be used.
        unusable: Names of these documents, or of files and folders whose documents are not known.
    """

    problems: list[str]
    unusable: list[str]


class NamesMet:
    """Some names, and how often one of them was asked for.

    Args:
        names: The names.

    Attributes:
        met: How often.
    """

    def __init__(self, names: Container[str]) -> None:
        self._names = names
        self.met = 0

    def __contains__(self, name: object) -> bool:
        """Whether it is one of the names."""
        found = isinstance(name, str) and name in self._names
        self.met += found
        return found


def chunking_progress(
    results: Iterable[tuple[ChunkBlock, bool]], documents: Iterable[Document]
) -> Iterator[tuple[ChunkBlock, bool]]:
    if not isinstance(documents, MeasuredDocuments):
        total = len(documents) if isinstance(documents, Sized) else None
        return with_progress(results, "chunk", total=total, unit="documents", count=lambda made: made[0].documents)
    shown = 0

    def read(_: object) -> int:
        nonlocal shown
        more, shown = documents.read_bytes - shown, documents.read_bytes
        return more

    return with_progress(results, "chunk", total=documents.total_bytes, unit="bytes", count=read)


def refuse_empty(
    documents: Iterable[Document], blocks: Sequence[ChunkBlock], before: Manifest | None, skipped: Sequence[str]
) -> None:
    """Refuse a source without a document that can be used, where there was one or one was left out.

    Raises:
        ValueError: If so; the message has the first reason.
    """
    problems = [*(documents.problems if isinstance(documents, NotedDocuments) else []), *skipped]
    had = before is not None and any(block.documents for block in before.chunks if not block.added)
    if any(block.documents for block in blocks) or not (problems or had):
        return
    reason = f" ({problems[0]})" if problems else ""
    cure = "the store is as it was; name a source with text, or remove documents by name" if had else "name another"
    raise ValueError(f"the source has no document that can be used{reason}: {cure}.")
