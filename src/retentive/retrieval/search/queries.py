"""The input and the result of a search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from retentive.retrieval.passages import Rows, as_rows
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
    """

    ids: Int64[np.ndarray, "queries k"]
    scores: Float32[np.ndarray, "queries k"]
    tokens: Int64[np.ndarray, "queries k length"]

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
