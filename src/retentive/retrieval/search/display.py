"""Display for the terminal: answers with their position and marked words, and the contents of a store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retentive.retrieval.manifest import FolderRecord, version_keys
from retentive.retrieval.neighbours.table import TABLES
from retentive.retrieval.search.answers import Answer
from retentive.retrieval.search.passage import marks_for
from retentive.retrieval.store import Datastore

_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if not chr(code).isspace()}
"""Characters that would steer a terminal."""


def answer_lines(answers: Sequence[Answer], before: str = "", after: str = "") -> list[str]:
    """Answers in lines for the terminal.

    Args:
        answers: Best first.
        before: Stands before each word of the query; without it and ``after``, brackets that no answer has.
        after: Stands behind it.
    """
    marks = (before, after) if before else marks_for([answer.text for answer in answers])
    lines: list[str] = []
    for rank, answer in enumerate(answers, start=1):
        place = f"{answer.document}, line {answer.line}, column {answer.column}"
        lines.append(f"{rank}. {place}, score {answer.score:.2f}".translate(_CONTROL))
        plain = replace(answer, text=answer.text.translate(_CONTROL))
        lines.append("   " + " ".join(plain.marked(*marks).split()))
        if answer.copies:
            shown = ", ".join(answer.copies[:3]) + (", ..." if len(answer.copies) > 3 else "")
            lines.append(f"   the same in {shown}".translate(_CONTROL))
    return lines


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
