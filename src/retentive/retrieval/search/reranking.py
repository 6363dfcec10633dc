"""Judging the first answers of a search once more, by a model that reads them beside the query."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

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

OPENING = 500
"""Bytes of the beginning of a document that are judged by themselves."""

OPENING_WEIGHT = 0.3
"""What the score of a document's opening weighs beside that of a passage, which weighs 1."""

Known = dict[tuple[int, int], float]


@dataclass(frozen=True, slots=True)
class Reading:
    """What reads the first answers of every query.

    A passage is judged with the opening of its document: of passages that answer a query alike, that of a document
    which is about it comes first.

    Attributes:
        corpus: The text of chunks.
        reranker: Judges passages.
        texts: The text of each query.
        passages: Scores of chunks that were judged, by the number of the query and the chunk.
        openings: Those of the openings of documents.
    """

    corpus: Corpus
    reranker: Reranker
    texts: Sequence[str]
    passages: Known = field(default_factory=dict[tuple[int, int], float])
    openings: Known = field(default_factory=dict[tuple[int, int], float])

    def scores(self, row: int, chunks: Int64[np.ndarray, "_"]) -> Float32[np.ndarray, "_"]:
        """What the reranker makes of some chunks: the weighted mean for each chunk and the opening of its document."""
        passages = self._judged(row, chunks, self.passages, passage_of)
        openings = self._judged(row, self.corpus.documents(chunks), self.openings, opening_of)
        return (passages + OPENING_WEIGHT * openings) / np.float32(1 + OPENING_WEIGHT)

    def _judged(
        self, row: int, numbers: Int64[np.ndarray, "_"], known: Known, text_of: Callable[[Corpus, int], str]
    ) -> Float32[np.ndarray, "_"]:
        """The score of the text that each number stands for; what is known is not judged again."""
        new = [number for number in dict.fromkeys(numbers.tolist()) if (row, number) not in known]
        judged = self.reranker.scores(self.texts[row], [text_of(self.corpus, number) for number in new])
        known.update({(row, number): score for number, score in zip(new, judged.tolist(), strict=True)})
        return np.array([known[row, number] for number in numbers.tolist()], dtype=np.float32)


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


def opening_of(corpus: Corpus, document: int) -> str:
    """The beginning of a document, which mostly says what it is about."""
    return corpus.content(document, 0, OPENING).decode("utf-8", "ignore")
