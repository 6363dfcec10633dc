"""BM25 by ``bm25s``: an index of word lists and the nearest of each, for the choice of the lexical index."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import bm25s

from benchmarks.racing.worker import Work


def works(*, words: str, k: int, threads: int) -> Mapping[str, Callable[..., Work]]:
    """The works over the words of every chunk.

    Args:
        words: JSON file with a list of words for each chunk.
        k: Answers for each.
        threads: Queries that are searched side by side.
    """
    rows: list[list[str]] = json.loads(Path(words).read_text())

    def index() -> bm25s.BM25:
        made = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        made.index(rows, show_progress=False)
        return made

    def query(count: int) -> Work:
        made, asked = index(), rows[:: max(1, len(rows) // count)][:count]
        return Work(run=lambda: made.retrieve(asked, k=k, n_threads=threads, show_progress=False), units=len(asked))

    return {"lexical_index": lambda: Work(run=index, units=len(rows)), "lexical_query": query}
