"""A store that is searched, read and changed by many requests at once, each of which sees one version of it."""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from retentive.config_types import check_count
from retentive.errors import DamagedFileError
from retentive.retrieval.manifest import Manifest, current_key, read_current, read_manifest
from retentive.retrieval.rerankers import Reranker
from retentive.retrieval.search.answers import Answer
from retentive.retrieval.search.where import Where
from retentive.retrieval.store import Datastore

Result = TypeVar("Result")

MOST_LINES = 2000
"""Lines of a document that one request reads, at most."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a document.

    Attributes:
        document: Its name.
        first_line: Number of the first one that is here, from 1.
        lines: How many lines the document has.
        text: The lines.
        metadata: Columns of the document.
    """

    document: str
    first_line: int
    lines: int
    text: str
    metadata: dict[str, Any]


class Library:
    """A store that other threads and processes change meanwhile.

    Every request works on the version that is current when it begins, whole: none sees a part of a change, and what
    was removed before a request is in none of its answers.

    Args:
        folder: Folder of the store.
        writable: Whether documents may be added and removed.
        reranker: Judges the first answers again where a request wants it; ``None`` reads with the store's encoder.
    """

    def __init__(self, folder: Path, *, writable: bool = True, reranker: Reranker | None = None) -> None:
        self.folder = folder
        self._reranker = reranker
        self.writable = writable
        self._store = Datastore.open(folder)
        self._opening = threading.Lock()
        self._writing = threading.Lock()

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        where: Where | None = None,
        one_per_document: bool = False,
        operators: bool = True,
        rerank: bool = False,
    ) -> list[Answer]:
        """The answers to a text; see `Datastore.answers`.

        Raises:
            ValueError: If the text is empty, ``k`` is below 1, a condition cannot be, or nothing can judge again.
        """
        judge = self._reranker or True if rerank else False
        return self._reading(
            lambda store: store.answers(
                query, k, where=where, one_per_document=one_per_document, operators=operators, rerank=judge
            )
        )

    def read(self, document: str, first_line: int = 1, lines: int = 200) -> Lines:
        """Lines of a document.

        Raises:
            ValueError: If there is no such document, a number is below 1, or ``lines`` is above `MOST_LINES`.
        """
        check_count("first_line", first_line, unit="line")
        check_count("lines", lines, unit="line")
        if lines > MOST_LINES:
            raise ValueError(
                f"lines must be at most {MOST_LINES:,}, but is {lines:,}: read what follows by first_line."
            )

        def read(store: Datastore) -> Lines:
            number = store.document_number(document)
            text, every = store.corpus.lines(number, first_line, lines)
            return Lines(document, first_line, every, text, store.corpus.metadata(number))

        return self._reading(read)

    def documents(self) -> list[str]:
        """Names of all documents."""
        return self._reading(lambda store: [name for _, name in store.corpus.names()])

    def add(self, document: str, text: str) -> dict[str, Any]:
        """Add a document, or replace the one of this name.

        Raises:
            ValueError: If the text cannot be used, or the library is not writable.
            BlockingIOError: If another process is writing to the store.
        """
        if not document.strip() or not text.strip():
            raise ValueError("a document must have a name and a text, but one of them is empty.")
        return self._changing(lambda store: store.add([(document, text)], replace=True))

    def remove(self, documents: list[str]) -> dict[str, Any]:
        """Remove documents by name.

        Raises:
            ValueError: If one is unknown, or the library is not writable.
            BlockingIOError: If another process is writing to the store.
        """
        return self._changing(lambda store: store.remove(documents))

    def _reading(self, ask: Callable[[Datastore], Result]) -> Result:
        while True:
            key = current_key(self.folder)
            try:
                return ask(self._version(key))
            except (DamagedFileError, FileNotFoundError):
                # The files of a version may be deleted while it is read, once another one is current.
                if current_key(self.folder) == key:
                    raise

    def _changing(self, change: Callable[[Datastore], Any]) -> dict[str, Any]:
        if not self.writable:
            raise ValueError("this store is served for reading alone: start it with --writable true.")
        with self._writing:
            report = change(self._opened(read_current(self.folder)))
        counts = ("added", "replaced", "removed", "unchanged")
        return {name: count for name, count in asdict(report).items() if name in counts}

    def _version(self, key: str) -> Datastore:
        """A version, as an object that nothing changes."""
        with self._opening:
            if key != self._store.version:
                self._store = self._opened(read_manifest(self.folder, key))
            self._store.open_indexes()  # once, and not by each of the threads that ask first
            return self._store

    def _opened(self, manifest: Manifest) -> Datastore:
        return Datastore(self.folder, manifest, self._store.tokenizer, self._store.encoder)
