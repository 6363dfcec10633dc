"""The neighbour table for training: the nearest allowed chunks of every chunk, on disk, block by block."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from retentive.config_types import check_counts, check_types
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import read_checked_json, with_checksum
from retentive.files.progress import with_progress
from retentive.retrieval.blocks.block import (
    check_block,
    key_of,
    read_block,
    write_block,
    write_store_file,
)
from retentive.retrieval.blocks.corpus import MISSING, Corpus, Ids
from retentive.retrieval.encoders import Encoder
from retentive.retrieval.engines.engine import Engine
from retentive.retrieval.index.protocol import nothing
from retentive.retrieval.manifest import Manifest, read_manifest
from retentive.retrieval.neighbours.document_families import document_families
from retentive.retrieval.neighbours.filters import DocumentKeys, document_keys, make_filter
from retentive.retrieval.neighbours.signatures import SignatureTask
from retentive.retrieval.passages import Passages
from retentive.retrieval.search.searcher import RowNumbers, Searcher, search_allowed
from retentive.text.tokenizer import Tokenizer

NEIGHBOURS = "neighbours"
TABLES = "tables"
_CANDIDATES_AT_ONCE = 1 << 17
BUILD_AGAIN = "delete it and build the neighbours again, which keeps the finished blocks"


@dataclass(frozen=True, kw_only=True)
class NeighbourConfig:
    """Options of a neighbour table.

    Attributes:
        k: Neighbours of every chunk.
        sample_chunks: Chunks of one training sample where samples are packed, one after the other, whatever documents
            they are from; ``None`` means that a sample has chunks of one document only.
        near_duplicates: Jaccard similarity of 13-token runs from which chunks, and whole documents, count as the same
            (0.8 in the RETRO paper): a neighbour is out if it, or its continuation, is similar to any chunk of the
            documents of the training sample. A similar pair is missed with a probability of at most 0.001 (`MISSED` in
            `retentive.retrieval.neighbours.near_duplicates`). ``None`` removes exact copies only.
        candidates: Number of candidates of the first search.
        max_candidates: Largest number of candidates; a chunk with fewer than ``k`` allowed ones has -1 for the rest.
    """

    k: int = 2
    sample_chunks: int | None = None
    near_duplicates: float | None = None
    candidates: int = 64
    max_candidates: int = 4096

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "k", "candidates", "max_candidates")
        if self.sample_chunks is not None and self.sample_chunks < 1:
            raise ValueError(f"sample_chunks must be at least 1 chunk, but is {self.sample_chunks}.")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise ValueError(f"near_duplicates must be above 0 and at most 1, but is {self.near_duplicates}.")


@dataclass(frozen=True)
class StoreVersion:
    """What a worker needs to open one version of a store.

    Attributes:
        folder: Folder of the store.
        version: Key of the version.
        tokenizer: Whose tokens its chunks are.
        encoder: How they are compared.
    """

    folder: Path
    version: str
    tokenizer: Tokenizer
    encoder: Encoder

    @cached_property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return read_manifest(self.folder, self.version)

    @cached_property
    def corpus(self) -> Corpus:
        """Its corpus."""
        chunk_size = self.manifest.settings["chunking"]["chunk_size"]
        return Corpus(self.folder, self.manifest.chunks, chunk_size, self.manifest.removed)

    @cached_property
    def searcher(self) -> Searcher:
        """Its searcher."""
        return Searcher(self.folder, self.manifest, self.encoder, self.tokenizer)

    @cached_property
    def document_keys(self) -> tuple[DocumentKeys, DocumentKeys]:
        """Keys of its documents."""
        return document_keys(self.corpus)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields, not the open files."""
        return StoreVersion, (self.folder, self.version, self.tokenizer, self.encoder)


@dataclass(frozen=True)
class NeighbourTask:
    """Finds the neighbours of all chunks of a block.

    Attributes:
        queries: The chunks that need neighbours.
        database: The store that is searched.
        config: Options of the table.
        table: Key of the table.
    """

    queries: StoreVersion
    database: StoreVersion
    config: NeighbourConfig
    table: str

    def __call__(self, block: int) -> tuple[str, int, int, bool]:
        """Make one block unless an undamaged one exists.

        Returns:
            Its checksum, the number of chunks, the number of missing neighbours, and whether it was made.
        """
        folder, key = self.queries.folder, key_of(NEIGHBOURS, self.table, block)
        problem, checksum = check_block(folder, NEIGHBOURS, key)
        if problem is not None:
            ids, scores = self._find(block)
            checksum = write_block(folder, NEIGHBOURS, key, {"ids": ids, "scores": scores})
            read_block.cache_clear()
        found = read_block(folder, NEIGHBOURS, key).arrays["ids"]
        return checksum, len(found), int((found < 0).sum()), problem is not None

    def _find(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours of all chunks of a block; chunks of removed documents get none."""
        config, corpus = self.config, self.queries.corpus
        first, last = int(corpus.first_chunks[block]), int(corpus.first_chunks[block + 1])
        scores, ids = nothing(last - first, config.k)
        live = corpus.live_ids(first, last) - first
        if len(live) == 0:
            return ids, scores
        if self._is_own:
            asked = self.database.searcher.queries_of_block(block)
        else:
            asked = self.database.searcher.queries(Passages(corpus.block_tokens(block), self.queries.tokenizer))
        limit = min(config.max_candidates, max(self.database.corpus.num_chunks, 1))
        chosen = self._filter(block)
        # Some chunks at a time: a long document has no allowed candidates, so all of its chunks ask for the most.
        step = max(1, _CANDIDATES_AT_ONCE // limit)
        for begin in range(0, len(live), step):
            some = np.arange(begin, min(begin + step, len(live)))

            def allowed(rows: RowNumbers, candidates: Ids, some: RowNumbers = some) -> np.ndarray:
                return chosen(some[rows], candidates)

            part = asked.select(live[some])
            (near, found), _ = search_allowed(part, config.k, allowed, first=config.candidates, limit=limit)
            scores[live[some]], ids[live[some]] = near, found
        return ids, scores

    def _filter(self, block: int) -> Any:
        queries, database = (self.database, self.database) if self._is_own else (self.queries, self.database)
        query_keys, database_keys = self._families
        return make_filter(
            queries.corpus,
            query_keys,
            database.corpus,
            database_keys,
            block,
            self.config.sample_chunks,
            self.config.near_duplicates,
        )

    @cached_property
    def _families(self) -> tuple[tuple[DocumentKeys, ...], tuple[DocumentKeys, ...]]:
        """Keys of the documents of both stores; similar documents have the same first key."""
        database, queries = self.database.document_keys, self.queries.document_keys
        if self.config.near_duplicates is None:
            return queries, database
        if self._is_own:
            (text,) = document_families([self.database.corpus], [database[0]], self.config.near_duplicates)
            return (text, database[1]), (text, database[1])
        corpora = [self.queries.corpus, self.database.corpus]
        texts = document_families(corpora, [queries[0], database[0]], self.config.near_duplicates)
        return (texts[0], queries[1]), (texts[1], database[1])

    @cached_property
    def _is_own(self) -> bool:
        return (self.queries.folder, self.queries.version) == (self.database.folder, self.database.version)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields, not the open files."""
        return NeighbourTask, (self.queries, self.database, self.config, self.table)


def table_key(queries: StoreVersion, database: StoreVersion, config: NeighbourConfig) -> str:
    """Key of a table: a hash of the chunks, of everything that is searched, and of the options."""
    found = database.manifest
    searched = [found.corpus_key, found.removed, [record.key for record in found.indexes], found.settings["encoder"]]
    effort = [record.facts.get("effort_value") for record in found.indexes]
    return key_of(TABLES, asdict(config), queries.manifest.corpus_key, searched, effort)


def build_table(
    queries: StoreVersion, database: StoreVersion, config: NeighbourConfig, engine: Engine, count: Callable[..., object]
) -> str:
    """Find the neighbours of every chunk of ``queries`` in ``database``; the caller holds the lock of ``queries``.

    Args:
        queries: The chunks that need neighbours.
        database: The store that is searched, often the same.
        config: Options of the table.
        engine: Where blocks are searched.
        count: Called with the stage and whether a block was computed, for the report.

    Returns:
        The key of the table.
    """
    key = table_key(queries, database, config)
    if config.near_duplicates is not None:
        for store in {queries.folder: queries, database.folder: database}.values():
            blocks = [block.key for block in store.manifest.chunks]
            made = engine.map(SignatureTask(store.folder, config.near_duplicates), blocks)
            for _, computed in with_progress(made, "sign", total=len(blocks), unit="blocks"):
                count("signatures", computed)
    numbers = range(len(queries.manifest.chunks))
    task = NeighbourTask(queries, database, config, key)
    made = engine.map(task, numbers)
    total = queries.corpus.num_chunks
    checksums: list[str] = []
    missing = 0
    for checksum, _, absent, computed in with_progress(
        made, "neighbours", total=total, unit="chunks", count=lambda result: result[1]
    ):
        count(NEIGHBOURS, computed)
        checksums.append(checksum)
        missing += absent
    content = {
        "format_version": 1,
        "config": asdict(config),
        "queries": queries.manifest.corpus_key,
        "database": {"folder": _relative(queries.folder, database.folder), "version": database.version},
        "database_corpus": database.manifest.corpus_key,
        "encoder": database.manifest.settings["encoder"]["fingerprint"],
        "removed": database.manifest.removed,
        "chunk_size": database.corpus.chunk_size,
        "rows": total,
        "missing": missing,
        "blocks": checksums,
    }
    path = queries.folder / TABLES / f"{key}.json"
    text = (json.dumps(with_checksum(content), sort_keys=True, indent=1) + "\n").encode()
    if not path.exists() or path.read_bytes() != text:
        write_store_file(path, text)
    return key


def find_table(queries: StoreVersion, database: StoreVersion, config: NeighbourConfig) -> str:
    """Key of the finished table of two stores with these options.

    Documents that were removed since do not matter: the table does not show them.

    Raises:
        FileNotFoundError: If there is none.
    """
    exact = table_key(queries, database, config)
    if (queries.folder / TABLES / f"{exact}.json").exists():
        return exact
    for path in sorted((queries.folder / TABLES).glob("*.json")):
        try:
            content = read_checked_json(path, cure=BUILD_AGAIN)
            same = content["config"] == asdict(config) and content["queries"] == queries.manifest.corpus_key
            same = same and content["database_corpus"] == database.manifest.corpus_key
            same = same and content["encoder"] == database.manifest.settings["encoder"]["fingerprint"]
            if same and set(content["removed"]) <= set(database.manifest.removed):
                return path.stem
        except (OSError, DamagedFileError):
            continue
    options = f"k={config.k}, sample_chunks={config.sample_chunks}, near_duplicates={config.near_duplicates}"
    raise FileNotFoundError(
        f"{str(queries.folder)!r} has no neighbour table of this version with {options}: build_neighbours makes it."
    )


def _relative(queries: Path, database: Path) -> str:
    return "." if queries.absolute() == database.absolute() else str(database.absolute())


class NeighbourTable:
    """Neighbours by chunk id, memory-mapped.

    Args:
        queries: The chunks that have neighbours.
        database: The corpus of the neighbours.
        key: Key of the table.
    """

    def __init__(self, queries: Corpus, database: Corpus, key: str) -> None:
        self._queries = queries
        self.database = database
        self.key = key
        path = queries.folder / TABLES / f"{key}.json"
        try:
            content = read_checked_json(path, cure=BUILD_AGAIN)
            self.config = NeighbourConfig(**content["config"])
            self.corpus_key: str = content["queries"]
            self.missing: int = content["missing"]
            rows: int = content["rows"]
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no finished table {str(path)!r}: build the neighbours.") from error
        if rows != queries.num_chunks:
            message = f"the neighbour table {str(path)!r} is of {rows} chunks, but the store has {queries.num_chunks}"
            raise MismatchError(f"{message}: documents were added since, so build the neighbours again.")

    @property
    def k(self) -> int:
        """Neighbours of every chunk."""
        return self.config.k

    @property
    def chunk_size(self) -> int:
        """Tokens per chunk of the database."""
        return self.database.chunk_size

    def __len__(self) -> int:
        """Number of chunks that have neighbours."""
        return self._queries.num_chunks

    def ids(self, chunks: Ids) -> Int64[np.ndarray, "*shape k"]:
        """Neighbours of chunks, `MISSING` where there are none or they were removed."""
        return self._read(chunks)[0]

    def scores(self, chunks: Ids) -> Float32[np.ndarray, "*shape k"]:
        """Scores of the neighbours, higher is nearer; ``-inf`` where there is none."""
        return self._read(chunks)[1]

    def tokens(self, chunks: Ids) -> Int64[np.ndarray, "*shape k length"]:
        """Neighbours with their continuations, ``2 * chunk_size`` tokens, -1 where there is none."""
        return self.database.with_continuations(self.ids(chunks))

    def _read(self, chunks: Ids) -> tuple[np.ndarray, np.ndarray]:
        flat = chunks.reshape(-1).astype(np.int64)
        ids = np.full((len(flat), self.k), MISSING, dtype=np.int64)
        scores = np.full((len(flat), self.k), -np.inf, dtype=np.float32)
        for block, places, rows in self._queries.by_block(flat):
            arrays = read_block(self._queries.folder, NEIGHBOURS, key_of(NEIGHBOURS, self.key, block)).arrays
            ids[places], scores[places] = arrays["ids"][rows], arrays["scores"][rows]
        gone = self.database.is_removed(ids)
        ids, scores = np.where(gone, MISSING, ids), np.where(gone, np.float32(-np.inf), scores)
        return ids.reshape(*chunks.shape, self.k), scores.reshape(*chunks.shape, self.k)
