"""The input and the result of a search."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from retentive.retrieval.passages import Rows, as_rows
from retentive.retrieval.search.answers import Answer
from retentive.text.tokenizer import Tokenizer

Query = str | Sequence[str] | Sequence[int] | np.ndarray
"""One text, several texts, the tokens of one query, or an array of tokens ``(queries, length)`` with -1 as padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The result of a search, nearest first.

    Attributes:
        ids: Ids of chunks, -1 where there are no more.
        scores: BM25, negative squared distance or fused rank: higher is nearer; ``-inf`` where there are no more.
        tokens: Each chunk and its continuation in the document, -1 where there is no token.
        answers: Cuts the answers of a query, by its number, from the text: see `Answer`.

    Iterating gives the answers of a search with one query.
    """

    ids: Int64[np.ndarray, "queries k"]
    scores: Float32[np.ndarray, "queries k"]
    tokens: Int64[np.ndarray, "queries k length"]
    answers: Callable[[int], list[Answer]]

    def __len__(self) -> int:
        """Number of answers, those of all queries together."""
        return int((self.ids >= 0).sum())

    def __iter__(self) -> Iterator[Answer]:
        """The answers of the one query, nearest first.

        Raises:
            ValueError: If there are several queries.
        """
        if len(self.ids) != 1:
            raise ValueError(f"there are {len(self.ids)} queries: ask for the answers of each, as in found.answers(0).")
        return iter(self.answers(0))

    @property
    def mask(self) -> Bool[np.ndarray, "queries k length"]:
        """True where there is a token."""
        return self.tokens >= 0


def query_rows(query: Query, tokenizer: Tokenizer) -> Rows:
    """The tokens of each query, padding behind them.

    Raises:
        ValueError: If tokens are no integers, of another shape, or not in the vocabulary.
    """
    if isinstance(query, str):
        query = [query]
    if isinstance(query, np.ndarray) or (len(query) > 0 and not isinstance(query[0], str)):
        rows = np.asarray(query)
        if rows.ndim not in (1, 2) or not np.issubdtype(rows.dtype, np.integer):
            message = "query tokens must be integers of shape (length,) or (queries, length)"
            raise ValueError(f"{message}, but are {rows.dtype} of shape {rows.shape}.")
        if rows.size and not -1 <= rows.min() <= rows.max() < tokenizer.vocab_size:
            found = f"{rows.min()} to {rows.max()}"
            raise ValueError(f"query tokens must be from -1 to {tokenizer.vocab_size - 1}, but are {found}.")
        return _left_aligned(np.atleast_2d(rows).astype(np.int64))
    return as_rows([np.asarray(tokenizer.encode(str(text)), dtype=np.int64) for text in query])


def _left_aligned(rows: Rows) -> Rows:
    """Move padding behind the tokens of each row."""
    order = np.argsort(rows < 0, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)
