"""How good a store's answers are, for queries whose right documents are known, in the formats of TREC.

Measures are those of ``trec_eval``, over documents: a document has the score of its best chunk; of equal scores the
name that is later in the alphabet comes first.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retentive.config_types import check_count
from retentive.retrieval.passages import Passages
from retentive.retrieval.rerankers import Reranker
from retentive.retrieval.search.asking import Searched, barred_documents
from retentive.retrieval.search.queries import query_rows
from retentive.retrieval.search.reranking import reranked
from retentive.retrieval.search.searcher import search_allowed

Topics = Mapping[str, str]
"""Texts of queries by their names."""

Judgements = Mapping[str, Mapping[str, int]]
"""Relevance of documents for each query: above 0 is right."""

Run = dict[str, dict[str, float]]
"""Scores of documents for each query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Means over the judged queries.

    Attributes:
        queries: Their number.
        ndcg: Normalised discounted cumulative gain of the first ten documents (Järvelin and Kekäläinen 2002).
        mrr: Mean of one over the rank of the first right document.
        recall: Share of the right documents among the first ``depth``.
        depth: Documents that were asked for, for each query.
    """

    queries: int
    ndcg: float
    mrr: float
    recall: float
    depth: int

    def as_dict(self) -> dict[str, Any]:
        """The measures as JSON takes them, by the names that ``trec_eval`` gives them."""
        found = asdict(self)
        depth = found.pop("depth")
        return {
            "queries": found["queries"],
            "ndcg_cut_10": found["ndcg"],
            "recip_rank": found["mrr"],
            f"recall_{depth}": found["recall"],
        }


def rank_documents(store: Searched, text: str, depth: int, *, rerank: Reranker | bool = False) -> dict[str, float]:
    """The ``depth`` best documents for a text, each with the score of its best chunk; ``rerank`` is as for `search`."""
    check_count("depth", depth, unit="document")
    corpus = store.corpus
    passages = Passages(query_rows(text, store.tokenizer), store.tokenizer)
    queries = reranked(store.open_indexes().queries(passages, [text]), store, [text], rerank)
    barred = barred_documents(corpus, (), ())
    limit = max(corpus.num_chunks, 1)
    wanted = min(4 * depth, limit)
    while True:
        (scores, ids), _ = search_allowed(
            queries, wanted, lambda _, candidates: ~barred[corpus.documents(candidates)], first=wanted, limit=limit
        )
        best: dict[int, float] = {}
        documents = corpus.documents(ids)[0].tolist()
        for document, score in zip(documents, scores[0].tolist(), strict=True):
            if document >= 0 and len(best) < depth:
                best.setdefault(document, score)
        if len(best) >= depth or ids[0, -1] < 0 or wanted >= limit:
            return {corpus.document_name(document): score for document, score in best.items()}
        wanted = min(4 * wanted, limit)


def quality_of(run: Run, judgements: Judgements, depth: int) -> Quality:
    """Measure a run; judged queries without answers count as failures.

    Raises:
        ValueError: If no query is judged.
    """
    if not judgements:
        raise ValueError("there are no judgements: give a file with a query, 0, a document and its relevance a line.")
    rows: list[tuple[float, float, float]] = []
    for query, judged in judgements.items():
        found = run.get(query, {})
        names = sorted(found, key=lambda name: (found[name], name), reverse=True)
        gains = [max(judged.get(name, 0), 0) for name in names]
        right = sum(value > 0 for value in judged.values())
        ideal = _discounted(sorted((max(value, 0) for value in judged.values()), reverse=True)[:10])
        first = next((rank for rank, gain in enumerate(gains, start=1) if gain > 0), None)
        recall = sum(gain > 0 for gain in gains[:depth]) / right if right else 0.0
        rows.append((_discounted(gains[:10]) / ideal if ideal else 0.0, 1 / first if first else 0.0, recall))
    ndcg, mrr, recall = (float(mean) for mean in np.mean(np.array(rows), axis=0))
    return Quality(queries=len(rows), ndcg=ndcg, mrr=mrr, recall=recall, depth=depth)


def _discounted(gains: list[int]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def read_topics(path: Path) -> dict[str, str]:
    """Read queries: a name, a tab and the text a line.

    Raises:
        ValueError: If a line is not so, or a name comes twice, the line is named; or if the file is not UTF-8.
    """
    topics: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        name, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if not tab or not name.strip() or not text.strip() or name.strip() in topics:
            problem = "names a query again" if name.strip() in topics else "is no name, tab and text"
            raise ValueError(f"{path} line {number} {problem}: {line[:60]!r}.")
        topics[name.strip()] = text.strip()
    if not topics:
        raise ValueError(f"{path} has no query: give a name, a tab and a text a line.")
    return topics


def read_judgements(path: Path) -> dict[str, dict[str, int]]:
    """Read TREC's qrels: a query, a number that is not used, a document and its relevance a line.

    Columns are parted by tabs or blanks; a document's name may have blanks.

    Raises:
        ValueError: If a line is not so, which is named; or if the file is not UTF-8.
    """
    found: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        parts = line.split(None, 2)
        name, _, relevance = (parts[2] if len(parts) == 3 else "").rstrip().rpartition("\t" if "\t" in line else " ")
        if not name.strip() or not relevance.removeprefix("-").isdecimal():
            raise ValueError(f"{path} line {number} is no query, 0, document and relevance: {line[:60]!r}.")
        found.setdefault(parts[0], {})[name.strip()] = int(relevance)
    return found


def _lines(path: Path) -> list[str]:
    """Lines of a file, parted by line ends alone: `splitlines` parts at form feeds and others too."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors begin files with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, but its byte {error.start:,} is not: convert it.") from error
    return text.replace("\r\n", "\n").split("\n")


def run_lines(run: Run, tag: str) -> list[str]:
    """A run as TREC writes it: query, Q0, document, rank, score and the name of the system."""
    lines: list[str] = []
    for query, found in run.items():
        names = sorted(found, key=lambda name: (found[name], name), reverse=True)
        lines += [f"{query}\tQ0\t{name}\t{rank}\t{found[name]:.9g}\t{tag}" for rank, name in enumerate(names, start=1)]
    return lines
