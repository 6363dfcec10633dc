"""Queries against an index, whatever its kind, and the search for answers that are allowed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from retentive.errors import MismatchError
from retentive.retrieval.blocks.vectors import VectorRows, Vectors, vector_key
from retentive.retrieval.encoders.protocol import (
    Encoder,
    FusedEncoder,
    VectorEncoder,
    WordCounts,
    WordEncoder,
    parts_of,
)
from retentive.retrieval.index.lexical_index import LEXICAL, LexicalIndex
from retentive.retrieval.index.protocol import NearestVectors, Ranking, nothing
from retentive.retrieval.index.vector_index import VectorIndex
from retentive.retrieval.manifest import Manifest
from retentive.retrieval.passages import Passages
from retentive.retrieval.stages import block_words
from retentive.text.tokenizer import Tokenizer

RowNumbers = Int64[np.ndarray, "rows"]
Allowed = Callable[[RowNumbers, Int64[np.ndarray, "rows candidates"]], Bool[np.ndarray, "rows candidates"]]
"""Says for queries (by number) which of their candidates may be answers."""


@runtime_checkable
class Queries(Protocol):
    """Encoded queries, ready to be searched for any number of answers."""

    def __len__(self) -> int:
        """How many."""
        ...

    def select(self, rows: RowNumbers) -> "Queries":
        """Some of them."""
        ...

    def search(self, k: int) -> Ranking:
        """The ``k`` nearest chunks of each."""
        ...


@dataclass(frozen=True, slots=True)
class WordQueries:
    """Queries by words."""

    words: Sequence[WordCounts]
    index: LexicalIndex

    def __len__(self) -> int:
        """How many."""
        return len(self.words)

    def select(self, rows: RowNumbers) -> "WordQueries":
        """Some of them."""
        return WordQueries([self.words[row] for row in rows.tolist()], self.index)

    def search(self, k: int) -> Ranking:
        """By BM25."""
        return self.index.search(self.words, k)


@dataclass(frozen=True, slots=True)
class VectorQueries:
    """Queries by vector."""

    vectors: Vectors
    index: NearestVectors

    def __len__(self) -> int:
        """How many."""
        return len(self.vectors)

    def select(self, rows: RowNumbers) -> "VectorQueries":
        """Some of them."""
        return VectorQueries(self.vectors[rows], self.index)

    def search(self, k: int) -> Ranking:
        """By negative squared distance."""
        return self.index.search(self.vectors, k)


@dataclass(frozen=True, slots=True)
class FusedQueries:
    """Queries by words and by vector."""

    words: WordQueries
    vectors: VectorQueries
    encoder: FusedEncoder

    def __len__(self) -> int:
        """How many."""
        return len(self.words)

    def select(self, rows: RowNumbers) -> "FusedQueries":
        """Some of them."""
        return FusedQueries(self.words.select(rows), self.vectors.select(rows), self.encoder)

    def search(self, k: int) -> Ranking:
        """By reciprocal rank fusion."""
        depth = max(k, self.encoder.depth)
        rankings = [self.words.search(depth)[1], self.vectors.search(depth)[1]]
        scores, ids = self.encoder.fuse(rankings, k)
        return np.where(ids >= 0, scores, -np.inf).astype(np.float32), ids


class Searcher:
    """All indexes of one version of a store behind one question.

    Args:
        folder: Folder of the store.
        manifest: The version.
        encoder: What made its keys, or what makes it again; its model is loaded when text has to be encoded.
        tokenizer: Whose tokens its chunks are.
        backend: Where vectors are searched instead of the store's own FAISS index.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        encoder: Encoder,
        tokenizer: Tokenizer,
        backend: NearestVectors | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.encoder = encoder
        self.tokenizer = tokenizer
        lexical, dense = parts_of(encoder)
        self._words: tuple[WordEncoder, LexicalIndex] | None = None
        self._vectors: tuple[VectorEncoder, VectorRows, NearestVectors] | None = None
        self._encoder_is_checked = False
        if lexical is not None:
            firsts = np.cumsum([0] + [block.rows for block in manifest.chunks], dtype=np.int64)
            segments = [record for record in manifest.indexes if record.kind == LEXICAL]
            self._words = (lexical, LexicalIndex(folder, segments, firsts))
        if dense is not None:
            settings = manifest.settings["vectors"]
            rows = vector_rows(folder, manifest, settings["fingerprint"], settings["dimension"])
            records = [record for record in manifest.indexes if record.kind != LEXICAL]
            self._vectors = (dense, rows, backend or VectorIndex(folder, records, rows))

    def queries(self, passages: Passages) -> Queries:
        """Encode passages as keys are encoded."""
        words = vectors = None
        if self._words is not None:
            encoder, index = self._words
            words = WordQueries(encoder.count_words(passages.texts()), index)
        if self._vectors is not None:
            encoder, _, nearest = self._vectors
            self._check_encoder(encoder)
            vectors = VectorQueries(encoder.encode(passages), nearest)
        return self._together(words, vectors)

    def queries_of_block(self, block: int) -> Queries:
        """All chunks of a block as queries: the query of a stored chunk is its key, so nothing is encoded."""
        words = vectors = None
        if self._words is not None:
            encoder, index = self._words
            key = self.manifest.chunks[block].key
            words = WordQueries(block_words(self.folder, key, self.tokenizer, encoder), index)
        if self._vectors is not None:
            _, rows, nearest = self._vectors
            vectors = VectorQueries(rows.block(block), nearest)
        return self._together(words, vectors)

    def _check_encoder(self, encoder: VectorEncoder) -> None:
        """Refuse a model whose files are no longer those that made the keys; looked at once, as it reads them all."""
        if not self._encoder_is_checked:
            wanted, found = self.manifest.settings["vectors"]["fingerprint"], encoder.fingerprint()
            if wanted != found:
                message = f"the encoder's model was changed since {str(self.folder)!r} was built with it"
                raise MismatchError(
                    f"{message} ({wanted[:16]}, now {found[:16]}): bring it back or build a store anew."
                )
            self._encoder_is_checked = True

    def _together(self, words: WordQueries | None, vectors: VectorQueries | None) -> Queries:
        if words is not None and vectors is not None:
            assert isinstance(self.encoder, FusedEncoder), "words and vectors are of an encoder that fuses them"
            return FusedQueries(words, vectors, self.encoder)
        found = words if words is not None else vectors
        assert found is not None, "every encoder makes words or vectors"
        return found


def vector_rows(folder: Path, manifest: Manifest, fingerprint: str, dimension: int) -> VectorRows:
    """The vectors of a version."""
    keys = [vector_key(fingerprint, block.key) for block in manifest.chunks]
    return VectorRows(folder, keys, [block.rows for block in manifest.chunks], dimension)


def search_allowed(queries: Queries, k: int, allowed: Allowed, *, first: int, limit: int) -> tuple[Ranking, RowNumbers]:
    """The ``k`` nearest chunks that are allowed, asking for four times as many candidates until there are enough.

    Args:
        queries: What is searched for.
        k: Answers wanted.
        allowed: Says which candidates may be answers.
        first: Candidates that are asked for at first.
        limit: Candidates beyond which nobody asks on.

    Returns:
        Scores and ids, and the queries that have fewer than ``k`` answers because of ``limit``.
    """
    scores, ids = nothing(len(queries), k)
    rows = np.arange(len(queries), dtype=np.int64)
    wanted = max(1, min(first, limit))
    while len(rows) > 0 and k > 0:
        asked = queries if len(rows) == len(queries) else queries.select(rows)
        found_scores, found = asked.search(wanted)
        kept = (found >= 0) & allowed(rows, found)
        rank = np.cumsum(kept, axis=1) - 1
        chosen = kept & (rank < k)
        line, place = np.nonzero(chosen)
        ids[rows[line], rank[line, place]] = found[line, place]
        scores[rows[line], rank[line, place]] = found_scores[line, place]
        # An index that gives fewer than it was asked for has no more.
        open_rows = (kept.sum(axis=1) < k) & (found[:, -1] >= 0)
        rows = rows[open_rows]
        if wanted >= limit:
            break
        wanted = min(4 * wanted, limit)
    return (scores, ids), rows
