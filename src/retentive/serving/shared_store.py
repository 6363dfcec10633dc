"""A datastore that the model's thread and requests search, one at a time."""

import threading
from typing import Any

from retentive.retrieval import Datastore
from retentive.retrieval.search.answers import Answer
from retentive.retrieval.search.asking import find_answers
from retentive.retrieval.search.passage import answer_of
from retentive.text.tokenizer import Tokenizer


class SharedStore:
    """A store behind a lock.

    Attributes:
        store: It.
        tokenizer: The store's.
    """

    def __init__(self, store: Datastore) -> None:
        """Share a store."""
        self.store = store
        self.tokenizer: Tokenizer = store.tokenizer
        self._lock = threading.Lock()

    @property
    def chunk_size(self) -> int:
        """Tokens per chunk."""
        return self.store.chunk_size

    @property
    def version(self) -> str:
        """Changes with what a search finds."""
        return self.store.version

    def search(self, query: Any, k: int) -> Any:
        """The ``k`` nearest chunks of each query, as a `StoreRetriever` asks for them."""
        with self._lock:
            return self.store.search(query, k)

    def find(self, text: str, k: int) -> list[Answer]:
        """The ``k`` best answers to a text.

        Raises:
            ValueError: If the text is blank, or names a column that no document has.
        """
        with self._lock:
            return find_answers(self.store, text, k)

    def passage(self, chunk: int, score: float) -> Answer:
        """A chunk that was read, as an answer: its text, and where it stands."""
        with self._lock:
            return answer_of(self.store.corpus, self.store.encoder, frozenset(), chunk, score)
