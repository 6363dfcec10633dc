"""Asking a store: the nearest chunks of a query, and the answers to a text, of documents that may be answers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from retentive.config_types import check_count
from retentive.retrieval.blocks.corpus import MISSING, Corpus
from retentive.retrieval.encoders.protocol import Encoder, WordEncoder, parts_of
from retentive.retrieval.encoders.words import Words, split_words
from retentive.retrieval.passages import Passages
from retentive.retrieval.rerankers import Reranker
from retentive.retrieval.search.answers import Answer
from retentive.retrieval.search.chosen_chunks import ChosenChunks, Mask
from retentive.retrieval.search.language import ParsedQuery, parse_query
from retentive.retrieval.search.passage import Surroundings, answer_of, surroundings
from retentive.retrieval.search.phrases import chunks_with_phrase, chunks_with_word
from retentive.retrieval.search.queries import Neighbours, Query, query_rows
from retentive.retrieval.search.reranking import reranked
from retentive.retrieval.search.searcher import Queries, RowNumbers, Searcher, search_allowed
from retentive.retrieval.search.where import Condition, Where, allowed_documents, columns, conditions_of
from retentive.text.tokenizer import Tokenizer


@runtime_checkable
class Searched(Protocol):
    """What is asked: a store, as it is open."""

    @property
    def corpus(self) -> Corpus:
        """Its chunks and their text."""
        ...

    def open_indexes(self) -> Searcher:
        """Its indexes."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its chunks."""
        ...

    @property
    def encoder(self) -> Encoder:
        """How its chunks are compared."""
        ...


def search_chunks(
    store: Searched,
    query: Query,
    k: int = 2,
    *,
    where: Where | None = None,
    exclude_documents: str | Iterable[str] = (),
    rerank: Reranker | bool = False,
) -> Neighbours:
    """Find the ``k`` nearest chunks of each query, with their continuations.

    Iterating the result of a search with one query gives answers with ``text``, ``document``, ``line``, ``score`` and
    ``metadata``. A text is plain words here; `answers` knows operators, and folds what is said twice.

    Args:
        store: The store.
        query: Text, texts, tokens of one query, or ``(queries, length)`` tokens with -1 as padding.
        k: Number of neighbours.
        where: Conditions on documents, as ``{"year": 1999}`` or ``"year>=1999 path=docs/*"``.
        exclude_documents: Names of documents (or one name) whose chunks are left out.
        rerank: What judges the first answers again; ``True`` is late interaction by the encoder of the store.

    Raises:
        ValueError: If ``k`` is below 1, a token is not in the vocabulary, or a document or column is unknown.
    """
    check_count("k", k, unit="neighbour")
    texts = [query] if isinstance(query, str) else list(query) if _are_texts(query) else None
    passages = Passages(query_rows(query, store.tokenizer), store.tokenizer)
    queries = reranked(store.open_indexes().queries(passages, texts), store, texts or passages.texts(), rerank)
    conditions = () if where is None else conditions_of(where)
    barred = barred_documents(store.corpus, conditions, exclude_documents)
    if conditions or (rerank is not False and barred[:-1].any()):
        queries = queries.among(ChosenChunks(_chunks_of_others(store.corpus, barred)))

    def allowed(rows: RowNumbers, ids: Int64[np.ndarray, "rows candidates"]) -> Bool[np.ndarray, "rows candidates"]:
        return ~barred[store.corpus.documents(ids)]

    limit = max(store.corpus.num_chunks, 1)
    (scores, ids), _ = search_allowed(queries, k, allowed, first=k + 4 * min(int(barred.sum()), 16), limit=limit)

    def answers(row: int) -> list[Answer]:
        encoder = words_of(store.encoder)
        wanted = frozenset(_split(encoder, texts[row]).keys) if texts is not None else frozenset[str]()
        found = zip(ids[row].tolist(), scores[row].tolist(), strict=True)
        return [answer_of(store.corpus, encoder, wanted, chunk, score) for chunk, score in found if chunk != MISSING]

    return Neighbours(ids=ids, scores=scores, tokens=store.corpus.with_continuations(ids), answers=answers)


def find_answers(
    store: Searched,
    text: str,
    k: int = 5,
    *,
    where: Where | None = None,
    one_per_document: bool = False,
    operators: bool = True,
    exclude_documents: str | Iterable[str] = (),
    rerank: Reranker | bool = False,
) -> list[Answer]:
    """Find the ``k`` best answers to a text, each cut from its document in whole words.

    Answers with the same text are folded into one, which names the other documents.

    Args:
        store: The store.
        text: Words; ``"a phrase"`` must be in every answer, ``-word`` in none, and ``year>=1999`` compares a column.
        k: Number of answers.
        where: Conditions on documents, as for `search`.
        one_per_document: Give the best answer of each document alone.
        operators: Whether the text may have operators; without, all of it is plain words.
        exclude_documents: Names of documents (or one name) that are left out.
        rerank: What judges the first answers again; ``True`` is late interaction by the encoder of the store.

    Raises:
        ValueError: If ``text`` is blank, ``k`` is below 1, or a document or column is unknown.
    """
    check_count("k", k, unit="answer")
    if not text.strip():
        raise ValueError("text must have something to search for, but is empty.")
    corpus = store.corpus
    asked = parse_query(text, columns(corpus)) if operators else ParsedQuery(text)
    conditions = (*asked.where, *(() if where is None else conditions_of(where)))
    barred = barred_documents(corpus, conditions, exclude_documents)
    candidates = _Candidates(corpus, words_of(store.encoder), asked, barred)
    narrowed = bool(conditions) or (rerank is not False and bool(barred[:-1].any()))
    queries = _queries_among(store, candidates, rerank, narrowed=narrowed)
    limit = max(corpus.num_chunks, 1)
    wanted = k + 4
    while True:
        (scores, ids), _ = search_allowed(queries, wanted, candidates.allowed, first=2 * wanted, limit=limit)
        found = [pair for pair in zip(ids[0].tolist(), scores[0].tolist(), strict=True) if pair[0] != MISSING]
        answers = candidates.folded(found, k, one_per_document)
        if len(answers) >= k or len(found) < wanted or wanted >= limit:
            return answers
        wanted = min(4 * wanted, limit)


def _queries_among(
    store: Searched,
    candidates: "_Candidates",
    rerank: Reranker | bool,
    *,
    narrowed: bool,
) -> Queries:
    """The query, answered by chunks that have its phrases, and not the words that are not wanted.

    Where there are such, or it is ``narrowed``, chunks of barred documents are left out before ranks are counted.

    Such words are looked up where there is an index of words; without, chunk after chunk is read for them.
    """
    corpus, words, index = store.corpus, words_of(store.encoder), store.open_indexes().words_index
    passages = Passages(query_rows(candidates.text, store.tokenizer), store.tokenizer)
    queries = reranked(store.open_indexes().queries(passages, [candidates.text]), store, [candidates.text], rerank)
    unwanted = [] if index is None else [keys for keys in candidates.without if len(keys) == 1]
    if not (narrowed or candidates.phrases or unwanted):
        return queries
    among = ChosenChunks(_chunks_of_others(corpus, candidates.barred))
    for phrase in candidates.phrases:
        among &= chunks_with_phrase(corpus, words, index, phrase)
    for (key,) in unwanted:
        assert index is not None
        among &= ChosenChunks(~chunks_with_word(corpus, index, key))
    return queries.among(among)


def barred_documents(
    corpus: Corpus, where: Sequence[Condition], excluded: str | Iterable[str]
) -> Bool[np.ndarray, "documents_and_missing"]:
    """Whether each document is no answer: it was removed, is excluded, or does not fulfil the conditions.

    The last entry is that of `MISSING`, which is no answer either.
    """
    barred = np.append(~allowed_documents(corpus, where), True)
    barred[corpus.removed] = True
    names = {excluded} if isinstance(excluded, str) else set(excluded)
    if names:
        found = {name: number for number, name in corpus.names() if name in names}
        if unknown := names - found.keys():
            raise ValueError(f"document {sorted(unknown)[0]!r} is not in the store {str(corpus.folder)!r}.")
        barred[list(found.values())] = True
    return barred


def _chunks_of_others(corpus: Corpus, barred: Bool[np.ndarray, "documents_and_missing"]) -> Mask:
    """Whether the document of each chunk is not barred."""
    return ~barred[corpus.documents(np.arange(corpus.num_chunks))]


def words_of(encoder: Encoder) -> WordEncoder | None:
    """What splits text into words; ``None`` for an encoder of vectors alone."""
    return parts_of(encoder)[0]


def _split(encoder: WordEncoder | None, text: str) -> Words:
    return split_words(text) if encoder is None else encoder.split(text)


def _are_texts(query: Query) -> TypeGuard[Sequence[str]]:
    return not isinstance(query, np.ndarray) and len(query) > 0 and isinstance(query[0], str)


class _Candidates:
    """Decides which chunks are answers to one query, and cuts answers from their text."""

    def __init__(
        self,
        corpus: Corpus,
        encoder: WordEncoder | None,
        asked: ParsedQuery,
        barred: Bool[np.ndarray, "documents_and_missing"],
    ) -> None:
        self._corpus, self._encoder, self.barred = corpus, encoder, barred
        self.text = asked.text
        self._wanted = frozenset(_split(encoder, asked.text).keys)
        self.phrases = [keys for phrase in asked.phrases if (keys := _split(encoder, phrase).keys)]
        self.without = [keys for phrase in asked.without if (keys := _split(encoder, phrase).keys)]
        self._around: dict[int, Surroundings] = {}
        self._answers: dict[int, Answer] = {}
        self._verdicts: dict[int, bool] = {}

    def allowed(
        self, rows: RowNumbers, ids: Int64[np.ndarray, "rows candidates"]
    ) -> Bool[np.ndarray, "rows candidates"]:
        """Whether each candidate may be an answer; the rows are of one query."""
        allowed = ~self.barred[self._corpus.documents(ids)]
        if self.without:
            for place in zip(*np.nonzero(allowed), strict=True):
                allowed[place] = self._fits(int(ids[place]))
        return allowed

    def _fits(self, chunk: int) -> bool:
        """Whether nothing that is not wanted stands in a chunk or its answer."""
        if chunk not in self._verdicts:
            around = surroundings(self._corpus, chunk, self._encoder)
            own = [around.words.keys[number] for number in around.own]
            shown = _split(self._encoder, self._answer(chunk, 0.0, around).text).keys
            unwanted = (_has(keys, one) for one in self.without for keys in (own, shown))
            self._verdicts[chunk] = not any(unwanted)
        return self._verdicts[chunk]

    def _answer(self, chunk: int, score: float, around: Surroundings | None = None) -> Answer:
        if chunk not in self._answers:
            self._answers[chunk] = answer_of(self._corpus, self._encoder, self._wanted, chunk, score, around)
        return replace(self._answers[chunk], score=score)

    def folded(self, found: Sequence[tuple[int, float]], k: int, one_per_document: bool) -> list[Answer]:
        """The first ``k`` answers with different text; the documents of others with the same text are noted."""
        answers: list[Answer] = []
        places: dict[tuple[str, ...], int] = {}
        documents: set[str] = set()
        for chunk, score in found:
            answer = self._answer(chunk, score)
            same = places.get(text := tuple(answer.text.split()))
            if same is not None:
                first = answers[same]
                if answer.document not in (first.document, *first.copies):
                    answers[same] = replace(first, copies=(*first.copies, answer.document))
            elif len(answers) < k and not (one_per_document and answer.document in documents):
                places[text] = len(answers)
                answers.append(answer)
                documents.add(answer.document)
        return answers


def _has(keys: Sequence[str], phrase: list[str]) -> bool:
    """Whether a phrase stands in a text."""
    return any(list(keys[place : place + len(phrase)]) == phrase for place in range(len(keys)))
