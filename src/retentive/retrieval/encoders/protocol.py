"""What the datastore asks of an encoder: words, vectors, or both."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from retentive.retrieval.blocks.vectors import Vectors
from retentive.retrieval.encoders.words import Words
from retentive.retrieval.passages import Passages

WordCounts = dict[str, int]
"""How often each word is in a passage."""


def count_words(keys: Sequence[str]) -> WordCounts:
    """How often each key is among some, in the order of their first occurrence."""
    return dict(Counter(keys))


RankedIds = Int64[np.ndarray, "queries candidates"]
"""Ids of chunks, nearest first, -1 where there are no more."""

ScoredIds = tuple[Float32[np.ndarray, "queries candidates"], Int64[np.ndarray, "queries candidates"]]
"""Scores, higher is nearer, and ids of chunks, as `RankedIds`."""


@runtime_checkable
class VectorEncoder(Protocol):
    """Turns passages into vectors; near vectors (squared Euclidean distance) mean near passages.

    One method serves keys and queries, so that the query of a stored chunk is its key. The vector of a passage must
    not depend on the passages beside it. An encoder that is not in `retentive.retrieval.encoders.ENCODERS` is passed
    to `Datastore.open` again.
    """

    def dimension(self) -> int:
        """Numbers in a vector."""
        ...

    def settings(self) -> dict[str, Any]:
        """What it is, for the manifest: names, strings and numbers; ``kind`` is its name in `ENCODERS`."""
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
        """What it is, for the manifest, as for `VectorEncoder`."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides words."""
        ...

    def split(self, text: str) -> Words:
        """The words of a text with their places; a key holds no white space.

        Documents and queries are split alike, so that words do not depend on where chunks fall. Long documents are
        split in pieces that begin with a word, so words must not depend on those before them.
        """
        ...


@runtime_checkable
class FusedEncoder(Protocol):
    """Words and vectors together: each finds its own answers, and ranks are fused."""

    @property
    def lexical(self) -> WordEncoder:
        """The encoder of words."""
        ...

    @property
    def dense(self) -> VectorEncoder:
        """The encoder of vectors."""
        ...

    @property
    def depth(self) -> int:
        """How many answers of each are fused, at least."""
        ...

    def settings(self) -> dict[str, Any]:
        """What it is, for the manifest, as for `VectorEncoder`."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the order of answers."""
        ...

    def fuse(
        self, rankings: list[ScoredIds], k: int
    ) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
        """Scores and ids of the ``k`` best of several rankings, by words first; -1 where there are no more."""
        ...


Encoder = WordEncoder | VectorEncoder | FusedEncoder
"""Words, vectors, or both."""


@runtime_checkable
class EncoderKind(Protocol):
    """A way to make encoders: one entry of `ENCODERS`. A class with these two class methods serves."""

    def make(self, model: str | Path | None, **options: Any) -> Encoder:
        """Make an encoder as a user asks for it.

        Raises:
            ValueError: If the model or an option cannot be.
        """
        ...

    def from_settings(self, settings: Mapping[str, Any]) -> Encoder | None:
        """Make the encoder again that gave these settings; ``None`` if only its owner can make it."""
        ...


def parts_of(encoder: Encoder) -> tuple[WordEncoder | None, VectorEncoder | None]:
    """What an encoder does with words, and what with vectors."""
    if isinstance(encoder, FusedEncoder):
        return encoder.lexical, encoder.dense
    if isinstance(encoder, WordEncoder):
        return encoder, None
    return None, encoder
