"""The datastore: documents in chunks that can be searched, with neighbour tables for training."""

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from retentive.config_types import check_kind
from retentive.errors import MismatchError
from retentive.files import only_writer
from retentive.retrieval.blocks.block import damaged
from retentive.retrieval.blocks.chunking import Document, DocumentParts, document_hash
from retentive.retrieval.blocks.corpus import Corpus, Ids
from retentive.retrieval.blocks.sealed_folder import folder_problems
from retentive.retrieval.build import Builder, BuildReport, document_hashes, named, refuse_foreign_folder
from retentive.retrieval.encoders import Encoder, encoder_from_settings
from retentive.retrieval.encoders.lexical import LexicalEncoder
from retentive.retrieval.engines.engine import Engine, LocalEngine
from retentive.retrieval.index.choice import IndexConfig
from retentive.retrieval.index.protocol import NearestVectors
from retentive.retrieval.manifest import Manifest, current_key, read_manifest, write_manifest
from retentive.retrieval.neighbours.table import NeighbourConfig, NeighbourTable, StoreVersion, build_table, find_table
from retentive.retrieval.passages import read_tokenizer
from retentive.retrieval.search.asking import find_answers, search_chunks
from retentive.retrieval.search.searcher import Searcher
from retentive.retrieval.verify import Damage, verify_store
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
        self.searcher = Searcher(self.folder, manifest, self.encoder, self.tokenizer, self._backend)

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
        in the folder, the differences are reported and a new version is made; the old one stays.

        Args:
            documents: ``(name, text)`` pairs or objects with ``name`` and ``text``; names must differ.
            folder: Folder of the store; new, empty, or that of a store.
            tokenizer: ``None`` takes bytes.
            chunk_size: Tokens per chunk.
            encoder: ``None`` takes words (BM25).
            index: How vectors are indexed; unused for words alone.
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
            index=index or IndexConfig(),
            block_bytes=block_bytes,
            engine=engine or LocalEngine(),
            on_error=on_error,
        )
        report = BuildReport()
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
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
        manifest = read_manifest(folder, version or current_key(folder))
        made = manifest.settings
        kept = tokenizer or _kept_tokenizer(folder, manifest)
        if tokenizer is not None:
            _check_fingerprint("tokenizer", folder, made["tokenizer"]["fingerprint"], tokenizer.fingerprint())
        comparing = encoder or encoder_from_settings(made["encoder"]["settings"])
        if comparing is None:
            kind = made["encoder"]["settings"].get("kind")
            raise MismatchError(f"{str(folder)!r} was built with an encoder of kind {kind!r}: pass it as encoder=.")
        if encoder is not None:
            _check_fingerprint("encoder", folder, made["encoder"]["fingerprint"], encoder.fingerprint())
        return cls(folder, manifest, kept, comparing, backend)

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
        wanted = set(names)
        if not wanted:
            return set()
        found = {name: number for number, name in self.corpus.names() if name in wanted}
        if len(found) < len(wanted):
            unknown = sorted(wanted - set(found))[0]
            raise ValueError(f"document {unknown!r} is not in the store {str(self.folder)!r}.")
        return set(found.values())

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
        with only_writer(self.folder):
            self._refresh()
            builder = self._builder(engine, **options)
            known = {name: number for number, name in self.corpus.names()}
            hashes = document_hashes(self.folder, self.manifest.chunks)
            fresh, gone = new_documents(documents, known, hashes, replace, report)
            before = self.manifest
            if gone:
                before = _without(before, gone)
            manifest = builder.extend(before, fresh, report)
            if manifest is before and gone:
                write_manifest(self.folder, manifest)
            self._show(manifest)
        return report

    def remove(self, names: Iterable[str]) -> None:
        """Remove documents by name: their text no longer appears as neighbour or continuation.

        The text stays on disk until the store is built in another folder without it.

        Raises:
            ValueError: If a document is unknown; then none is removed.
        """
        wanted = list(names)
        with only_writer(self.folder):
            self._refresh()
            manifest = _without(self.manifest, self._numbers(wanted))
            write_manifest(self.folder, manifest)
            self._show(manifest)

    def reindex(self, *, index: IndexConfig | None = None, engine: Engine | None = None) -> BuildReport:
        """Merge the indexes of all additions into one new index; ids do not change."""
        report = BuildReport()
        with only_writer(self.folder):
            self._refresh()
            builder = self._builder(engine, index=index or IndexConfig())
            before = self.manifest
            manifest = builder.complete(
                before.settings, before.chunks, before.removed, report, first_block=0, indexes=()
            )
            self._show(builder.finish(manifest))
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
                locks.enter_context(only_writer(folder))
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
        key = current_key(self.folder)
        if key != self.version:
            self._show(read_manifest(self.folder, key))

    def _builder(self, engine: Engine | None, **options: Any) -> Builder:
        chunking = self.manifest.settings["chunking"]
        return Builder(
            folder=self.folder,
            tokenizer=self.tokenizer,
            chunk_size=chunking["chunk_size"],
            encoder=self.encoder,
            index=options.get("index") or IndexConfig(),
            block_bytes=options.get("block_bytes") or chunking["block_bytes"],
            engine=engine or LocalEngine(),
            on_error=options.get("on_error", "stop"),
        )


def new_documents(
    documents: Iterable[Document],
    known: dict[str, int],
    hashes: dict[str, bytes],
    replacing: bool,
    report: BuildReport,
) -> tuple[list[DocumentParts], set[int]]:
    """The documents to add, and the numbers of those that they replace."""
    fresh: list[DocumentParts] = []
    gone: set[int] = set()
    for name, text, metadata in named(documents):
        if name in known:
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
            if document_hash(digest, metadata) == hashes[name]:
                report.skipped.append(f"document {name!r} is there already, with the same text.")
                continue
            if not replacing:
                raise ValueError(
                    f"document {name!r} is there already with another text: pass replace=True to replace it."
                )
            gone.add(known[name])
        fresh.append((name, text, metadata))
    return fresh, gone


def _kept_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """The tokenizer that is saved in the store; checking its checksums is faster than its fingerprint."""
    for path, reason in folder_problems(folder, manifest.tokenizer):
        raise damaged(path, reason)
    return read_tokenizer(folder / manifest.tokenizer.kind / manifest.tokenizer.key)


def _without(manifest: Manifest, numbers: set[int]) -> Manifest:
    return replace(manifest, removed=tuple(sorted({*manifest.removed, *numbers})))


def _check_fingerprint(what: str, folder: Path, wanted: str, found: str) -> None:
    if wanted != found:
        message = (
            f"{str(folder)!r} was built with the {what} of fingerprint {wanted[:16]}, but this one has {found[:16]}"
        )
        raise MismatchError(f"{message}: open it with the same {what}, or build a store with this one.")
