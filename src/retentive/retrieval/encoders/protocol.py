"""What the datastore asks of an encoder."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from retentive.retrieval.tokens import Passages

Vectors = Float32[np.ndarray, "rows dimension"]
"""One vector a passage."""

WordCounts = dict[str, int]
"""How often each word is in a passage."""


@runtime_checkable
class VectorEncoder(Protocol):
    """Turns passages into vectors; near vectors (squared Euclidean distance) mean near passages.

    One method serves keys and queries, so that the query of a stored chunk is its key. The vector of a passage must
    not depend on the passages beside it. Whoever brings an encoder of their own passes it to `Datastore.open` again.
    """

    def dimension(self) -> int:
        """Numbers in a vector."""
        ...

    def settings(self) -> dict[str, Any]:
        """What it is, for the manifest: names, strings and numbers, ``kind`` among them."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides vectors."""
        ...

    def encode(self, passages: Passages) -> Vectors:
        """The vector of each passage."""
        ...


@runtime_checkable
class WordEncoder(Protocol):
    """Turns passages into words for a lexical index."""

    def settings(self) -> dict[str, Any]:
        """What it is, for the manifest."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides words."""
        ...

    def count_words(self, texts: Sequence[str]) -> list[WordCounts]:
        """The words of each text."""
        ...
