"""Display for the terminal: answers with their position and marked words, and the contents of a store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retentive.retrieval.blocks.corpus import MISSING
from retentive.retrieval.encoders.lexical import LONGEST_WORD, WORD, split_words
from retentive.retrieval.manifest import FolderRecord, version_keys
from retentive.retrieval.neighbours.table import TABLES
from retentive.retrieval.store import Datastore

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer of a search.

    Attributes:
        rank: Rank of the answer, from 1.
        chunk: Id of the chunk.
        score: Higher is nearer.
        document: Name of its document.
        first_token: Position of its first token in the document, from 0.
        line: Line of its first character, from 1, in the decoded text.
        text: Text of the chunk.
        continuation: The text after it in the document, at most one more chunk.
        matches: Begin and end of each word of the query in ``text``.
    """

    rank: int
    chunk: int
    score: float
    document: str
    first_token: int
    line: int
    text: str
    continuation: str
    matches: tuple[Span, ...]

    def lines(self, before: str = "[", after: str = "]") -> list[str]:
        """The answer in lines for the terminal, matched words between ``before`` and ``after``."""
        place = f"{self.document}, line {self.line} (chunk {self.chunk}, token {self.first_token})"
        shown = _one_line(marked(self.text, self.matches, before, after))
        return [f"{self.rank}. {place}, score {self.score:.2f}", f"   {shown}", f"   -> {_one_line(self.continuation)}"]


def find(store: Datastore, text: str, k: int = 5) -> list[Hit]:
    """Search for a text and describe the answers for display.

    Raises:
        ValueError: If ``text`` is empty or ``k`` is below 1.
    """
    if not text.strip():
        raise ValueError("text must have something to search for, but is empty.")
    found = store.search(text, k=k)
    hits: list[Hit] = []
    for rank, (chunk, score) in enumerate(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True), start=1):
        if chunk == MISSING:
            break
        halves = [_text(store, half) for half in np.split(found.tokens[0, rank - 1], 2)]
        ids = np.array([chunk])
        document = int(store.corpus.documents(ids)[0])
        first = store.corpus.chunks_of(document).start
        earlier = _text(store, store.corpus.tokens(np.arange(first, chunk)).reshape(-1))
        hit = Hit(
            rank=rank,
            chunk=chunk,
            score=score,
            document=store.corpus.document_name(document),
            first_token=(chunk - first) * store.chunk_size,
            line=earlier.count("\n") + 1,
            text=halves[0],
            continuation=halves[1],
            matches=matches(text, halves[0]),
        )
        hits.append(hit)
    return hits


def matches(query: str, text: str) -> tuple[Span, ...]:
    """Begin and end of each word of a query in a text."""
    wanted = set(split_words(query))
    words = (word for word in WORD.finditer(text) if word.group().lower()[:LONGEST_WORD] in wanted)
    return tuple(word.span() for word in words)


def marked(text: str, spans: tuple[Span, ...], before: str, after: str) -> str:
    """A text with marks around the given parts."""
    pieces: list[str] = []
    end = 0
    for begin, stop in spans:
        pieces += [text[end:begin], before, text[begin:stop], after]
        end = stop
    return "".join([*pieces, text[end:]])


def _text(store: Datastore, tokens: np.ndarray) -> str:
    return store.tokenizer.decode(tokens[tokens >= 0].tolist())


def _one_line(text: str) -> str:
    return " ".join(text.split())


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
