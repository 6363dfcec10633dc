"""Judging the first answers of a search once more, by a model that reads them beside the query."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.encoders import Encoder
from retentive.retrieval.encoders.protocol import parts_of
from retentive.retrieval.index.protocol import Ranking, best
from retentive.retrieval.rerankers import LateInteraction, Reranker, TokenVectorEncoder
from retentive.retrieval.search.chosen_chunks import ChosenChunks
from retentive.retrieval.search.searcher import Queries, RowNumbers

DEPTH = 50
"""Answers of the indexes that are judged again."""

BEGINNING = 120
"""Bytes of the beginning of a document that are read with each of its passages: it mostly says what all is about."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reads the first answers of every query.

    Attributes:
        corpus: The text of chunks.
        reranker: Judges passages.
        texts: The text of each query.
        known: Scores of chunks that were judged, by the number of the query and the chunk.
    """

    corpus: Corpus
    reranker: Reranker
    texts: Sequence[str]
    known: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])

    def scores(self, row: int, chunks: Int64[np.ndarray, "_"]) -> np.ndarray:
        """What the reranker makes of some chunks."""
        new = [chunk for chunk in chunks.tolist() if (row, chunk) not in self.known]
        judged = self.reranker.scores(self.texts[row], [passage_of(self.corpus, chunk) for chunk in new])
        self.known.update({(row, chunk): score for chunk, score in zip(new, judged.tolist(), strict=True)})
        return np.array([self.known[row, chunk] for chunk in chunks.tolist()], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class RerankedQueries:
    """Queries whose first `DEPTH` answers are judged again.

    They have the reranker's scores. Answers that were not judged follow in the order of the indexes, with lower scores.

    Attributes:
        queries: Find the answers.
        reading: Judges them.
        rows: Number of each query in ``reading``.
    """

    queries: Queries
    reading: Reading
    rows: tuple[int, ...]

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.queries)

    def select(self, rows: RowNumbers) -> "RerankedQueries":
        """The queries of the given rows."""
        chosen = tuple(self.rows[row] for row in rows.tolist())
        return replace(self, queries=self.queries.select(rows), rows=chosen)

    def among(self, chunks: ChosenChunks) -> "RerankedQueries":
        """The same queries, answered by some chunks alone: the others are not judged."""
        return replace(self, queries=self.queries.among(chunks))

    def search(self, k: int) -> Ranking:
        """The ``k`` best chunks of each query."""
        _, ids = self.queries.search(max(k, DEPTH))
        first, rest = ids[:, :DEPTH], ids[:, DEPTH:]
        judged = np.full(first.shape, -np.inf, dtype=np.float32)
        for place, row in enumerate(self.rows):
            known = first[place] >= 0
            judged[place, known] = self.reading.scores(row, first[place, known])
        scores, first = best(judged, first, first.shape[1])
        lowest = np.min(scores, axis=1, keepdims=True, initial=0.0, where=first >= 0)
        below = lowest - 1 - np.arange(rest.shape[1], dtype=np.float32)
        found = np.concatenate([first, rest], axis=1)[:, :k]
        scored = np.concatenate([scores, below], axis=1)[:, :k]
        return np.where(found >= 0, scored, -np.inf).astype(np.float32), found


@runtime_checkable
class Readable(Protocol):
    """What is read: the chunks of a store, and how they are compared."""

    @property
    def corpus(self) -> Corpus:
        """Its chunks and their text."""
        ...

    @property
    def encoder(self) -> Encoder:
        """How its chunks are compared."""
        ...


def reranked(queries: Queries, store: Readable, texts: Sequence[str], rerank: Reranker | bool) -> Queries:
    """Queries whose first answers are judged again where that is wanted; see `reranker_of`."""
    reranker = reranker_of(store.encoder, rerank)
    if reranker is None:
        return queries
    return RerankedQueries(queries, Reading(store.corpus, reranker, texts), tuple(range(len(texts))))


def reranker_of(encoder: Encoder, rerank: Reranker | bool) -> Reranker | None:
    """The reranker that is asked for: ``True`` is late interaction by the encoder of the store.

    Raises:
        ValueError: If the store has no encoder for that.
    """
    if not isinstance(rerank, bool):
        return rerank
    if not rerank:
        return None
    dense = parts_of(encoder)[1]
    if not isinstance(dense, TokenVectorEncoder):
        raise ValueError(
            "rerank=True reads with the encoder of the store, but this store has none of vectors: give a model that "
            "reads, as CrossEncoder(folder) or LateInteraction(DenseEncoder(folder)) (--reranker FOLDER)."
        )
    return LateInteraction(dense)


def passage_of(corpus: Corpus, chunk: int) -> str:
    """What is judged of a chunk: its text, after the beginning of its document."""
    ids = np.array([chunk])
    document = int(corpus.documents(ids)[0])
    begin, end = (int(place[0]) for place in corpus.spans(ids))
    beginning = corpus.content(document, 0, min(BEGINNING, begin)).decode("utf-8", "ignore")
    text = corpus.content(document, begin, end).decode("utf-8", "ignore")
    return f"{beginning}\n{text}" if beginning else text
