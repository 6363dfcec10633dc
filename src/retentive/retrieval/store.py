"""The datastore: documents in chunks that can be searched, with neighbour tables for training."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from retentive.config_types import check_kind
from retentive.errors import MismatchError
from retentive.retrieval.blocks.chunking import Document
from retentive.retrieval.blocks.corpus import Corpus, Ids
from retentive.retrieval.encoders import Encoder
from retentive.retrieval.encoders.lexical import LexicalEncoder
from retentive.retrieval.engines.engine import Engine, LocalEngine
from retentive.retrieval.index.choice import IndexConfig
from retentive.retrieval.index.protocol import NearestVectors
from retentive.retrieval.manifest import Manifest, current_key, read_current
from retentive.retrieval.neighbours.table import NeighbourConfig, NeighbourTable, StoreVersion, build_table, find_table
from retentive.retrieval.opening import open_parts
from retentive.retrieval.search.asking import find_answers, search_chunks
from retentive.retrieval.search.searcher import Searcher
from retentive.retrieval.verify import Damage, verify_store
from retentive.retrieval.versions.build import Builder, BuildReport, kept_index, refuse_foreign_folder, writing
from retentive.retrieval.versions.garbage import Freed, collect_garbage, compact_in_room
from retentive.retrieval.versions.updates import add_documents, reindexed, remove_documents, sync_documents
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.tokenizer import Tokenizer


class Datastore:
    """Documents in chunks, with indexes over them. Reading never writes to disk.

    Use `build` and `open`. An object shows one version; `add`, `remove` and `reindex` make a new version and show it.

    Args:
        folder: Its folder.
        manifest: The version.
        tokenizer: The tokenizer of its chunks.
        encoder: How chunks and queries are compared.
        backend: Searches vectors instead of the store's own indexes.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        tokenizer: Tokenizer,
        encoder: Encoder,
        backend: NearestVectors | None = None,
    ) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.report = BuildReport()
        self._backend = backend
        self._show(manifest)

    def _show(self, manifest: Manifest) -> None:
        self.manifest = manifest
        chunk_size = manifest.settings["chunking"]["chunk_size"]
        self.corpus = Corpus(self.folder, manifest.chunks, chunk_size, manifest.removed)
        self._searcher: Searcher | None = None

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        folder: Path | str,
        *,
        tokenizer: Tokenizer | None = None,
        chunk_size: int = 64,
        encoder: Encoder | None = None,
        index: IndexConfig | None = None,
        block_bytes: int = 1 << 20,
        engine: Engine | None = None,
        on_error: str = "stop",
    ) -> "Datastore":
        """Build a store, resume an interrupted build, or repair a damaged store.

        Undamaged finished blocks are kept, all others are made. If documents or options differ from those of the store
        in the folder, the differences are reported and a new version is made; the old one stays. What `add` brought
        stays in the store, and what `remove` took out stays out.

        Args:
            documents: ``(name, text)`` pairs or objects with ``name`` and ``text``; names must differ.
            folder: Folder of the store; new, empty, or that of a store.
            tokenizer: ``None`` takes bytes.
            chunk_size: Tokens per chunk.
            encoder: ``None`` takes words (BM25).
            index: How vectors are indexed, unused for words alone; ``None`` keeps the way of the store that is there.
            block_bytes: Bytes of text of a block: the work that an interruption can lose.
            engine: Where the work runs; ``None`` is this process.
            on_error: Whether a document that cannot be used stops the build or is left out and reported.

        Raises:
            ValueError: If an option is invalid or a document cannot be used; the document is named.
            BlockingIOError: If another process is writing to this store.
            OSError: If the disk is full; finished blocks are kept.
        """
        check_kind("index", index, IndexConfig, type(None))
        folder = Path(folder)
        refuse_foreign_folder(folder)
        builder = Builder(
            folder=folder,
            tokenizer=tokenizer or ByteTokenizer(),
            chunk_size=chunk_size,
            encoder=encoder or LexicalEncoder(),
            index=index or kept_index(folder) or IndexConfig(),
            block_bytes=block_bytes,
            engine=engine or LocalEngine(),
            on_error=on_error,
        )
        report = BuildReport()
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder):
            manifest = builder.build(documents, report)
        store = cls(folder, manifest, builder.tokenizer, builder.encoder)
        store.report = report
        return store

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        tokenizer: Tokenizer | None = None,
        encoder: Encoder | None = None,
        version: str | None = None,
        backend: NearestVectors | None = None,
    ) -> "Datastore":
        """Open a store for reading and searching.

        Args:
            folder: Its folder; it may be read-only.
            tokenizer: Needed if the store was built with a tokenizer of another library.
            encoder: Needed if the store was built with an encoder that is not in `ENCODERS`, or if the model's folder
                was moved.
            version: Key of a version; ``None`` takes the current one.
            backend: Searches vectors instead of the store's own indexes, as `MilvusVectors` does.

        Raises:
            FileNotFoundError: If there is no finished store.
            DamagedFileError: If a file is damaged; it is named, with the cure.
            MismatchError: If the tokenizer or encoder is not the one that the store was built with.
        """
        folder = Path(folder)
        return cls(folder, *open_parts(folder, tokenizer, encoder, version), backend)

    @property
    def searcher(self) -> Searcher:
        """Its indexes, opened and checked when they are first needed.

        Raises:
            DamagedFileError: If a file of them is damaged; it is named, with the cure.
        """
        if self._searcher is None:
            self._searcher = Searcher(self.folder, self.manifest, self.encoder, self.tokenizer, self._backend)
        return self._searcher

    def open_indexes(self) -> Searcher:
        """Open and check the indexes now, and not when they are first needed; see `searcher`."""
        return self.searcher

    @property
    def chunk_size(self) -> int:
        """Tokens per chunk."""
        return self.corpus.chunk_size

    @property
    def version(self) -> str:
        """Key of the version that this object shows."""
        return self.manifest.key

    def __len__(self) -> int:
        """Number of chunks, without those of removed documents."""
        removed = sum(len(self.corpus.chunks_of(int(document))) for document in self.corpus.removed)
        return self.corpus.num_chunks - removed

    search = search_chunks
    answers = find_answers

    def _numbers(self, names: Iterable[str]) -> set[int]:
        wanted = _names(names)
        if not wanted:
            return set()
        found = {name: number for number, name in self.corpus.names() if name in wanted}
        if len(found) < len(wanted):
            unknown = sorted(wanted - set(found))[0]
            raise ValueError(f"document {unknown!r} is not in the store {str(self.folder)!r}.")
        return set(found.values())

    def document_number(self, name: str) -> int:
        """The number of a document.

        Raises:
            ValueError: If no document that can be found has this name.
        """
        return self._numbers({name}).pop()

    def tokens(self, ids: Ids) -> Int64[np.ndarray, "*shape length"]:
        """Chunks by id with their continuations, ``2 * chunk_size`` tokens, -1 where there is none."""
        return self.corpus.with_continuations(ids)

    def add(
        self, documents: Iterable[Document], *, replace: bool = False, engine: Engine | None = None, **options: Any
    ) -> BuildReport:
        """Add documents; existing chunks keep their ids, and nothing of them is computed again.

        Args:
            documents: As for `build`. A document that exists with the same text is left out.
            replace: Whether a document of a known name with another text replaces the old one.
            engine: Where the work runs; ``None`` is this process.
            options: ``on_error``, ``index`` and ``block_bytes`` of `build`.

        Raises:
            ValueError: If a name is known with another text and ``replace`` is False.
        """
        report = BuildReport()
        with writing(self.folder):
            self._refresh()
            builder = self._builder(engine, **options)
            self._show(add_documents(builder, self.manifest, documents, replace, report))
        return report

    def sync(self, documents: Iterable[Document], *, engine: Engine | None = None, **options: Any) -> BuildReport:
        """Bring the documents in line with a source: add what is new, replace what changed, remove what is gone.

        Documents that `add` brought stay, and those that `remove` took out stay out. What the source has but cannot be
        read now (a `TextSource` notes it) stays as it was.

        Args:
            documents: All documents of the source, as for `build`.
            engine: Where the work runs; ``None`` is this process.
            options: ``on_error``, ``index`` and ``block_bytes`` of `build`.

        Raises:
            ValueError: If the source has no document that can be used.
        """
        report = BuildReport()
        with writing(self.folder):
            self._refresh()
            self._show(sync_documents(self._builder(engine, **options), self.manifest, documents, report))
        return report

    def remove(self, names: Iterable[str], *, engine: Engine | None = None) -> BuildReport:
        """Remove documents by name: their text no longer appears as neighbour or continuation.

        Building again, or a `sync`, does not bring them back; `add` does. The text stays on disk until `gc`.

        Args:
            names: Names of documents.
            engine: Where statistics of words are computed again; ``None`` is this process.

        Raises:
            ValueError: If a document is unknown; then none is removed.
        """
        report = BuildReport()
        with writing(self.folder):
            self._refresh()
            self._show(remove_documents(self._builder(engine), self.manifest, _names(names), report))
        return report

    def gc(self, *, engine: Engine | None = None) -> Freed:
        """Delete from the disk what this version does not need: earlier versions, and the text of removed documents.

        Where documents were removed the chunks after them get other ids, so neighbour tables are deleted too. An object
        that shows an earlier version can no longer read it.
        """
        with writing(self.folder):
            self._refresh()
            removed = len(self.manifest.removed)
            manifest, freed = compact_in_room(self._builder(engine), self.manifest, self.report)
            self._show(manifest)
            return freed + collect_garbage(self.folder, manifest, removed)

    def reindex(self, *, index: IndexConfig | None = None, engine: Engine | None = None) -> BuildReport:
        """Make vectors and indexes again where they are missing or damaged, one index of vectors over everything.

        No source is needed, and ids do not change.

        Args:
            index: How vectors are indexed from now on; ``None`` keeps the store's way.
            engine: Where the work runs; ``None`` is this process.
        """
        report = BuildReport()
        with writing(self.folder):
            self._refresh()
            builder = self._builder(engine, index=index)
            self._show(reindexed(builder, self.manifest, report))
        return report

    def build_neighbours(
        self,
        config: NeighbourConfig | None = None,
        *,
        database: "Datastore | None" = None,
        engine: Engine | None = None,
    ) -> NeighbourTable:
        """Find the neighbours of every chunk for training, or resume an interrupted table.

        Args:
            config: Number of neighbours, and which chunks are excluded; ``None`` takes the defaults.
            database: Another store to search, for example for held-out documents; ``None`` searches this one.
            engine: Where the work runs; ``None`` is this process.

        Raises:
            MismatchError: If the other store has another tokenizer or chunk size.
        """
        check_kind("config", config, NeighbourConfig, type(None))
        config = config or NeighbourConfig()
        searched = self if database is None else database
        self._check_same_chunks(searched)
        with ExitStack() as locks:
            for folder in sorted({self.folder.absolute(), searched.folder.absolute()}):
                locks.enter_context(writing(folder))
            report = self.report = BuildReport()
            stores = self.as_version(), searched.as_version()
            key = build_table(*stores, config, engine or LocalEngine(), report.count)
        return NeighbourTable(self.corpus, searched.corpus, key)

    def neighbours(
        self, config: NeighbourConfig | None = None, *, database: "Datastore | None" = None
    ) -> NeighbourTable:
        """Open the table that `build_neighbours` made with the same arguments.

        Raises:
            FileNotFoundError: If there is none for this version.
        """
        searched = self if database is None else database
        self._check_same_chunks(searched)
        key = find_table(self.as_version(), searched.as_version(), config or NeighbourConfig())
        return NeighbourTable(self.corpus, searched.corpus, key)

    def as_version(self) -> StoreVersion:
        """This version, in the form that is sent to workers."""
        return StoreVersion(self.folder, self.version, self.tokenizer, self.encoder)

    def _check_same_chunks(self, other: "Datastore") -> None:
        if self.chunk_size != other.chunk_size:
            sizes = f"{self.chunk_size} and {other.chunk_size}"
            raise MismatchError(
                f"both stores must have the same chunk size, but have {sizes}: build one of them again."
            )
        if self.tokenizer.fingerprint() != other.tokenizer.fingerprint():
            raise MismatchError("both stores must have the same tokenizer, but theirs differ: build one of them again.")

    def verify(self) -> list[Damage]:
        """Read every file of this folder and name the damaged ones; see `verify_store`, which needs no open store."""
        return verify_store(self.folder)

    def refresh(self) -> bool:
        """Show the current version, which another process may have made; return whether it changed."""
        before = self.version
        self._refresh()
        return self.version != before

    def _refresh(self) -> None:
        if current_key(self.folder) != self.version:
            self._show(read_current(self.folder))

    def _builder(self, engine: Engine | None, **options: Any) -> Builder:
        chunking, kept = self.manifest.settings["chunking"], self.manifest.settings.get("index")
        return Builder(
            folder=self.folder,
            tokenizer=self.tokenizer,
            chunk_size=chunking["chunk_size"],
            encoder=self.encoder,
            index=options.get("index") or (IndexConfig() if kept is None else IndexConfig(**kept)),
            block_bytes=options.get("block_bytes") or chunking["block_bytes"],
            engine=engine or LocalEngine(),
            on_error=options.get("on_error", "stop"),
        )


def _names(names: Iterable[str]) -> set[str]:
    """Names of documents; a single string is one name, not its letters."""
    return {names} if isinstance(names, str) else set(names)
