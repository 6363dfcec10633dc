"""A datastore that the model's thread and requests search, one at a time."""

import threading
from typing import Any

from retentive.retrieval import Datastore
from retentive.retrieval.search.display import Hit, find
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

    def search(self, query: Any, k: int) -> Any:
        """The ``k`` nearest chunks of each query, as a `StoreRetriever` asks for them."""
        with self._lock:
            return self.store.search(query, k)

    def find(self, text: str, k: int) -> list[Hit]:
        """The ``k`` nearest chunks of a text, in words."""
        with self._lock:
            return find(self.store, text, k)
