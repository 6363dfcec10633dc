"""``retentive index search``: asks a store in a folder, or a server.

Only what asking a server needs is imported here: its models are loaded already, so the rest of a search is the start of
this command.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive.config_types import check_types
from retentive.retrieval.search.answers import ShownAnswers
from retentive.retrieval.service.client import search_server

_BOLD, _PLAIN = "\033[1;32m", "\033[0m"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """What is searched for.

    Args:
        text: What to search for; "-" reads it from standard input.
        store: Folder of the store.
        server: Address of "retentive index serve", as http://127.0.0.1:8788, which is asked in place of a folder: its
            models are loaded already.
        k: How many answers.
        where: Conditions on columns of the documents, as "year>=1999 path=docs/*"; path is a document's name.
        one_per_document: Show the best answer of each document alone.
        operators: Read "a phrase", -word and conditions in the text; false takes all of it as plain words.
        rerank: Have a model read the first answers of the indexes beside the text; better and slower.
        reranker: Folder of that model: a cross-encoder, or an encoder for late interaction; null reads with the
            encoder of the store. A server has its own.
    """

    text: str
    store: Path | None = None
    server: str | None = None
    k: int = 5
    where: str | None = None
    one_per_document: bool = False
    operators: bool = True
    rerank: bool = False
    reranker: Path | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if (self.store is None) == (self.server is None):
            found = "neither is" if self.store is None else "both are"
            raise ValueError(f"store or server must say where to search, one of them, but {found} given.")
        if self.reranker is not None and not self.rerank:
            raise ValueError("reranker is the model that rerank reads with: add --rerank.")
        if self.reranker is not None and self.server is not None:
            raise ValueError("reranker is chosen by the server: give it to retentive index serve.")


def search(config: SearchConfig) -> ShownAnswers:
    """Answers with their place, the words of the query marked."""
    text = sys.stdin.read() if config.text == "-" else config.text
    marks = (_BOLD, _PLAIN) if sys.stdout.isatty() else ("", "")
    options: dict[str, Any] = {
        "where": config.where,
        "one_per_document": config.one_per_document,
        "operators": config.operators,
    }
    if config.server is not None:
        asked = {"query": text, "k": config.k, "rerank": config.rerank, **options}
        return ShownAnswers(search_server(config.server, asked), marks)
    from retentive.retrieval.rerankers import open_reranker
    from retentive.retrieval.search.display import search_store

    assert config.store is not None
    judge = config.rerank if config.reranker is None else open_reranker(config.reranker)
    return search_store(config.store, text, config.k, **options, marks=marks, rerank=judge)
