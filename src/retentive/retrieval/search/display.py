"""Display for the terminal: what is found in a store, how good its answers are, and what it holds."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retentive.files import write_atomically
from retentive.files.progress import say, with_progress
from retentive.files.targets import check_file_target
from retentive.retrieval.manifest import FolderRecord, version_keys
from retentive.retrieval.neighbours.table import TABLES
from retentive.retrieval.rerankers import Reranker
from retentive.retrieval.search.answers import ShownAnswers
from retentive.retrieval.search.evaluation import quality_of, rank_documents, read_judgements, read_topics, run_lines
from retentive.retrieval.store import Datastore


def search_store(
    folder: Path,
    text: str,
    k: int,
    *,
    where: str | None,
    one_per_document: bool,
    operators: bool,
    marks: tuple[str, str],
    rerank: Reranker | bool = False,
) -> ShownAnswers:
    """Open a store, find answers in it, and say how long both took; see `Datastore.answers`."""
    begin = time.monotonic()
    store = Datastore.open(folder)
    store.open_indexes()
    opened = time.monotonic()
    answers = store.answers(text, k, where=where, one_per_document=one_per_document, operators=operators, rerank=rerank)
    found = time.monotonic()
    say(f"opened in {1000 * (opened - begin):,.0f} ms, searched in {1000 * (found - opened):,.0f} ms")
    return ShownAnswers(answers, marks)


@dataclass(frozen=True, slots=True)
class Measures:
    """How well documents were ranked, as a command prints it.

    Attributes:
        values: Each measure by its name.
    """

    values: dict[str, Any]

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        return [
            f"{name:<14}{value:>10,.4f}" if isinstance(value, float) else f"{name:<14}{value:>10,}"
            for name, value in self.values.items()
        ]

    def content(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        return self.values


def evaluate_store(
    folder: Path,
    queries: Path,
    judgements: Path,
    *,
    depth: int,
    run_file: Path | None,
    rerank: Reranker | bool = False,
) -> Measures:
    """Rank the documents of a store for each query, and compare with judgements.

    Args:
        folder: Folder of the store.
        queries: File of queries, as `read_topics` reads it.
        judgements: File of judgements, as `read_judgements` reads it.
        depth: Documents that are ranked for each query.
        run_file: Where the ranking is written, in TREC's format; ``None`` writes none.
        rerank: What judges the first answers again, as for `Datastore.answers`.

    Raises:
        ValueError: If a query is judged that is not asked, or the ranking could not be written.
    """
    if run_file is not None:
        check_file_target("run", run_file, suggestion="ranking.txt")
    topics, judged = read_topics(queries), read_judgements(judgements)
    if unknown := judged.keys() - topics.keys():
        raise ValueError(f"{judgements} judges query {min(unknown)!r}, which is not in {queries}.")
    store = Datastore.open(folder)
    asked = with_progress(topics.items(), "evaluate", total=len(topics), unit="queries")
    run = {name: rank_documents(store, text, depth, rerank=rerank) for name, text in asked}
    if run_file is not None:
        write_atomically(run_file, "".join(f"{line}\n" for line in run_lines(run, "retentive")).encode())
    return Measures(quality_of(run, judged, depth).as_dict())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreInfo:
    """The contents of a store.

    Attributes:
        folder: Its folder.
        version: Key of the version.
        versions: Number of versions in the folder.
        documents: Number of documents, without removed ones.
        removed: Number of removed documents.
        chunks: Number of chunks, without those of removed documents.
        tokens: In all chunks, removed documents included.
        chunk_size: Tokens per chunk.
        tokenizer: Kind of the tokenizer.
        encoder: Settings of the encoder.
        indexes: A description of each index.
        tables: Number of neighbour tables.
        bytes_by_kind: Bytes on disk, of all versions together.
    """

    folder: Path
    version: str
    versions: int
    documents: int
    removed: int
    chunks: int
    tokens: int
    chunk_size: int
    tokenizer: str
    encoder: dict[str, Any]
    indexes: tuple[str, ...]
    tables: int
    bytes_by_kind: dict[str, int]

    def lines(self) -> list[str]:
        """The lines for the terminal."""
        removed = f" ({self.removed:,} removed)" if self.removed else ""
        encoder = ", ".join(f"{name} {value}" for name, value in self.encoder.items() if not isinstance(value, dict))
        lines = [
            f"store      {self.folder}, version {self.version} of {self.versions}",
            f"documents  {self.documents:,}{removed}",
            f"chunks     {self.chunks:,} of {self.chunk_size} tokens, {self.tokens:,} tokens in all",
            f"tokenizer  {self.tokenizer}",
            f"encoder    {encoder}",
            *(f"index      {line}" for line in self.indexes),
            f"neighbours {self.tables} table{'' if self.tables == 1 else 's'}",
        ]
        lines += [f"bytes      {kind:<11}{size:>15,}" for kind, size in self.bytes_by_kind.items()]
        return [*lines, f"bytes      {'in all':<11}{sum(self.bytes_by_kind.values()):>15,}"]

    def content(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        return asdict(self) | {"folder": str(self.folder)}


def describe_store(folder: Path) -> StoreInfo:
    """Describe the contents of the store in a folder."""
    return describe(Datastore.open(folder))


def describe(store: Datastore) -> StoreInfo:
    """Describe the contents of a store."""
    settings = store.manifest.settings
    sizes: dict[str, int] = {}
    for path in sorted(store.folder.rglob("*")):
        if path.is_file():
            kind = path.relative_to(store.folder).parts[0]
            sizes[kind] = sizes.get(kind, 0) + path.stat().st_size
    return StoreInfo(
        folder=store.folder,
        version=store.version,
        versions=len(version_keys(store.folder)),
        documents=store.corpus.num_documents - len(store.corpus.removed),
        removed=len(store.corpus.removed),
        chunks=len(store),
        tokens=sum(block.tokens for block in store.manifest.chunks),
        chunk_size=store.chunk_size,
        tokenizer=settings["tokenizer"]["name"],
        encoder=settings["encoder"]["settings"],
        indexes=tuple(_index_line(store, record) for record in store.manifest.indexes),
        tables=len(list((store.folder / TABLES).glob("*.json"))),
        bytes_by_kind=sizes,
    )


def _index_line(store: Datastore, record: FolderRecord) -> str:
    blocks = store.manifest.chunks[record.first_block : record.first_block + record.num_blocks]
    rows = f"{sum(block.rows for block in blocks):,} chunks"
    if record.kind == "lexical":
        return f"BM25, {rows}"
    facts = record.facts
    recall = "no recall measured" if facts["recall"] is None else f"recall@{facts['recall_at']} {facts['recall']:.3f}"
    effort = f" at {facts['effort']} {facts['effort_value']}" if facts["effort"] else ""
    return f"{facts['factory']}, {rows}, {recall}{effort}"
