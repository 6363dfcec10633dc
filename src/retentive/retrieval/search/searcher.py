"""Encoded queries against words, vectors or both, and the search for allowed answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from retentive.errors import MismatchError
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.blocks.vectors import VectorRows, Vectors, vector_key
from retentive.retrieval.encoders.protocol import (
    Encoder,
    FusedEncoder,
    VectorEncoder,
    WordCounts,
    WordEncoder,
    count_words,
    parts_of,
)
from retentive.retrieval.index.lexical_index import LEXICAL, LexicalIndex
from retentive.retrieval.index.protocol import (
    BoundedVectors,
    IdentifiedVectors,
    NearestVectors,
    Ranking,
    VectorsIdentity,
    nothing,
)
from retentive.retrieval.index.vector_index import AT_ONCE, AnyNumberOfAnswers, LiveVectors, VectorIndex, one_by_one
from retentive.retrieval.manifest import Manifest, read_manifest, version_keys
from retentive.retrieval.passages import Passages
from retentive.retrieval.search.chosen_chunks import ChosenChunks
from retentive.retrieval.versions.stages import BlockWords, has_words_of
from retentive.text.tokenizer import Tokenizer

RowNumbers = Int64[np.ndarray, "rows"]
Allowed = Callable[[RowNumbers, Int64[np.ndarray, "rows candidates"]], Bool[np.ndarray, "rows candidates"]]
"""For queries (by number) and their candidates: whether each candidate may be an answer."""


@runtime_checkable
class Queries(Protocol):
    """Encoded queries, ready to be searched for any number of answers."""

    def __len__(self) -> int:
        """Number of queries."""
        ...

    def select(self, rows: RowNumbers) -> "Queries":
        """The queries of the given rows."""
        ...

    def among(self, chunks: ChosenChunks) -> "Queries":
        """The same queries, answered by some chunks alone: the others are left out before ranks are counted."""
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
        """Number of queries."""
        return len(self.words)

    def select(self, rows: RowNumbers) -> "WordQueries":
        """The queries of the given rows."""
        return WordQueries([self.words[row] for row in rows.tolist()], self.index)

    def among(self, chunks: ChosenChunks) -> "Among":
        """The same queries, answered by some chunks alone."""
        return Among(self, chunks)

    def search(self, k: int) -> Ranking:
        """The ``k`` nearest chunks of each query by BM25."""
        return self.index.search(list(self.words), k)  # threads take them in any order


@dataclass(frozen=True, slots=True)
class VectorQueries:
    """Queries by vector."""

    vectors: Vectors
    index: NearestVectors
    rows: VectorRows

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.vectors)

    def select(self, rows: RowNumbers) -> "VectorQueries":
        """The queries of the given rows."""
        return VectorQueries(self.vectors[rows], self.index, self.rows)

    def among(self, chunks: ChosenChunks) -> "AmongVectors":
        """The same queries, answered by some chunks alone."""
        return AmongVectors(self, chunks)

    def search(self, k: int) -> Ranking:
        """The ``k`` nearest chunks of each query by squared Euclidean distance."""
        return self.index.search(self.vectors, k)


@dataclass(frozen=True, slots=True)
class Among:
    """Queries that are answered by some chunks alone; the index is asked for more until there are enough of them."""

    queries: Queries
    chunks: ChosenChunks

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.queries)

    def select(self, rows: RowNumbers) -> "Among":
        """The queries of the given rows."""
        return replace(self, queries=self.queries.select(rows))

    def among(self, chunks: ChosenChunks) -> "Among":
        """The same queries, answered by those of its chunks that are also among others."""
        return replace(self, chunks=self.chunks & chunks)

    def search(self, k: int) -> Ranking:
        """The ``k`` nearest of these chunks to each query."""
        limit = max(len(self.chunks.mask), 1)
        return search_allowed(self.queries, k, lambda _, ids: self.chunks.have(ids), first=2 * k, limit=limit)[0]


@dataclass(frozen=True, slots=True)
class AmongVectors(Among):
    """Queries by vector that are answered by some chunks alone.

    A few chunks are compared one by one, and so are more of them where the index, which need not look everywhere, finds
    fewer answers than there are.
    """

    queries: VectorQueries

    def search(self, k: int) -> Ranking:
        """The ``k`` nearest of these chunks to each query by squared Euclidean distance."""
        ids = np.flatnonzero(self.chunks.mask).astype(np.int64)
        if len(ids) > AT_ONCE:
            scores, found = Among.search(self, k)
            if (found[:, min(k, len(ids)) - 1] >= 0).all():
                return scores, found
        compared = replace(self.queries, index=_OneByOne(self.queries.rows, ids))
        return Among(compared, self.chunks).search(k)


@dataclass(frozen=True, slots=True)
class _OneByOne:
    """Some vectors of a store, each of them compared."""

    rows: VectorRows
    ids: Int64[np.ndarray, "_"]

    def search(self, queries: Vectors, k: int) -> Ranking:
        """The ``k`` nearest of them to each query."""
        return one_by_one(self.rows, self.ids, queries, k)


@dataclass(frozen=True, slots=True)
class FusedQueries:
    """Queries by words and by vector."""

    words: Queries
    vectors: Queries
    encoder: FusedEncoder

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.words)

    def select(self, rows: RowNumbers) -> "FusedQueries":
        """The queries of the given rows."""
        return FusedQueries(self.words.select(rows), self.vectors.select(rows), self.encoder)

    def among(self, chunks: ChosenChunks) -> "FusedQueries":
        """The same queries, answered by some chunks alone: ranks are those among them."""
        return FusedQueries(self.words.among(chunks), self.vectors.among(chunks), self.encoder)

    def search(self, k: int) -> Ranking:
        """The ``k`` best chunks of each query by fused ranks."""
        depth = max(k, self.encoder.depth)
        rankings = [self.words.search(depth), self.vectors.search(depth)]
        scores, ids = self.encoder.fuse(rankings, k)
        return np.where(ids >= 0, scores, -np.inf).astype(np.float32), ids


class Searcher:
    """Searches all indexes of one version of a store.

    Args:
        folder: Folder of the store.
        manifest: The version.
        encoder: The encoder of its chunks; its model is loaded when a text has to be encoded.
        tokenizer: The tokenizer of its chunks.
        backend: Searches vectors instead of the store's own indexes.
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
            if not all(has_words_of(record, manifest.chunks, lexical) for record in segments):
                message = f"words in {str(folder)!r} were indexed by other rules than this version of the library has"
                raise MismatchError(f"{message}: retentive index reindex --store {folder} makes the index again.")
            self._words = (lexical, LexicalIndex(folder, segments, firsts))
        if dense is not None:
            settings = manifest.settings["vectors"]
            rows = vector_rows(folder, manifest, settings["fingerprint"], settings["dimension"])
            records = [record for record in manifest.indexes if record.kind != LEXICAL]
            if isinstance(backend, IdentifiedVectors):
                check_identity(folder, manifest, backend.identity)
            nearest = backend or VectorIndex(folder, records, rows)
            if isinstance(nearest, BoundedVectors):
                nearest = AnyNumberOfAnswers(nearest, rows)
            if manifest.removed:
                removed = Corpus(folder, manifest.chunks, 1, manifest.removed).removed_chunks
                nearest = LiveVectors(nearest, removed, len(rows))
            self._vectors = (dense, rows, nearest)

    @property
    def words_index(self) -> LexicalIndex | None:
        """The index of words; ``None`` for an encoder of vectors alone."""
        return None if self._words is None else self._words[1]

    def queries(self, passages: Passages, texts: Sequence[str] | None = None) -> Queries:
        """Encode passages in the way chunks are encoded.

        Args:
            passages: Their tokens.
            texts: Their texts, where they are known: what a tokenizer loses is searched for too.
        """
        words = vectors = None
        if self._words is not None:
            encoder, index = self._words
            words = WordQueries([count_words(encoder.split(text).keys) for text in texts or passages.texts()], index)
        if self._vectors is not None:
            encoder, rows, nearest = self._vectors
            self._check_encoder(encoder)
            vectors = VectorQueries(encoder.encode(passages), nearest, rows)
        return self._together(words, vectors)

    def queries_of_block(self, block: int) -> Queries:
        """All chunks of a block as queries; their stored vectors are used, so no text is encoded by a model."""
        words = vectors = None
        if self._words is not None:
            encoder, index = self._words
            words = WordQueries(BlockWords(self.folder, self.manifest.chunks[block], encoder), index)
        if self._vectors is not None:
            _, rows, nearest = self._vectors
            vectors = VectorQueries(rows.block(block), nearest, rows)
        return self._together(words, vectors)

    def _check_encoder(self, encoder: VectorEncoder) -> None:
        """Check once that the model's files are those that encoded the store; all of them are read for it."""
        if not self._encoder_is_checked:
            check_model(self.folder, self.manifest.settings["vectors"]["fingerprint"], encoder)
            self._encoder_is_checked = True

    def _together(self, words: WordQueries | None, vectors: VectorQueries | None) -> Queries:
        if words is not None and vectors is not None:
            assert isinstance(self.encoder, FusedEncoder), "words and vectors are of an encoder that fuses them"
            return FusedQueries(words, vectors, self.encoder)
        found = words if words is not None else vectors
        assert found is not None, "every encoder makes words or vectors"
        return found


def check_model(folder: Path, wanted: str, encoder: VectorEncoder) -> None:
    """Refuse a model that is not the one which made a store's vectors: its own are not comparable with them.

    Raises:
        MismatchError: If its fingerprint is not the one that is wanted.
    """
    found = encoder.fingerprint()
    if wanted != found:
        message = f"the encoder's model was changed since {str(folder)!r} was built with it"
        cure = "restore the model, or make all vectors again by this one (retentive index reindex)"
        raise MismatchError(f"{message} ({wanted[:16]}, now {found[:16]}): {cure}.")


def check_identity(folder: Path, manifest: Manifest, found: VectorsIdentity) -> None:
    """Refuse vectors outside of the store that are not those of this version.

    Raises:
        MismatchError: If they are of another version or another store; the message says which.
    """
    wanted = identity_of(manifest)
    if found == wanted:
        return
    for key in version_keys(folder):
        earlier = read_manifest(folder, key)
        if "vectors" in earlier.settings and found == identity_of(earlier):
            raise MismatchError(
                f"the vectors of the backend are of version {key} of {str(folder)!r}, which is now {manifest.key}: "
                "upload them again (upload_vectors)."
            )
    raise MismatchError(
        f"the vectors of the backend are of another store than {str(folder)!r}, or of a version that is no longer "
        "there: upload the vectors of this one (upload_vectors)."
    )


def identity_of(manifest: Manifest) -> VectorsIdentity:
    """Which vectors a version has."""
    return VectorsIdentity(manifest.corpus_key, manifest.settings["vectors"]["fingerprint"])


def vector_rows(folder: Path, manifest: Manifest, fingerprint: str, dimension: int) -> VectorRows:
    """The vectors of a version."""
    keys = [vector_key(fingerprint, block.key) for block in manifest.chunks]
    return VectorRows(folder, keys, [block.rows for block in manifest.chunks], dimension)


def search_allowed(queries: Queries, k: int, allowed: Allowed, *, first: int, limit: int) -> tuple[Ranking, RowNumbers]:
    """The ``k`` nearest allowed chunks; the number of candidates is quadrupled until there are enough.

    Args:
        queries: The queries.
        k: Number of answers.
        allowed: Decides which candidates may be answers.
        first: Number of candidates of the first search.
        limit: Largest number of candidates.

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
        # An index that returns fewer candidates than requested has no more.
        open_rows = (kept.sum(axis=1) < k) & (found[:, -1] >= 0)
        rows = rows[open_rows]
        if wanted >= limit:
            break
        wanted = min(4 * wanted, limit)
    return (scores, ids), rows
