"""Building a version of a store: documents to chunks, chunks to words or vectors, those to indexes, then a manifest."""

from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from retentive.config_types import check_types
from retentive.errors import MismatchError
from retentive.files import is_temporary, only_writer, remove
from retentive.files.progress import say, with_progress
from retentive.retrieval.blocks.block import key_of
from retentive.retrieval.blocks.chunking import (
    CHUNKS,
    MAX_CHUNK_SIZE,
    Document,
    group_documents,
)
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.blocks.sealed_folder import folder_record, sealed_folder
from retentive.retrieval.encoders.protocol import Encoder, VectorEncoder, WordEncoder, parts_of
from retentive.retrieval.engines.engine import Engine
from retentive.retrieval.index import index_kind
from retentive.retrieval.index.choice import IndexConfig, check_factory
from retentive.retrieval.index.faiss_build import SHARDS
from retentive.retrieval.index.lexical_index import LEXICAL
from retentive.retrieval.manifest import (
    CURRENT,
    ChunkBlock,
    FolderRecord,
    Manifest,
    read_current,
    write_manifest,
)
from retentive.retrieval.search.searcher import check_model, vector_rows
from retentive.retrieval.versions.changes import changed_documents, changed_settings
from retentive.retrieval.versions.runs import Run, vector_runs
from retentive.retrieval.versions.sources import NamesMet, chunking_progress, refuse_empty
from retentive.retrieval.versions.stages import ChunkTask, EncodeTask, SegmentTask, has_words_of, segment_jobs
from retentive.text.tokenizer import Tokenizer

TOKENIZER = "tokenizer"


@dataclass(slots=True)
class BuildReport:
    """The result of a build, in counts and lines.

    Attributes:
        made: Blocks that were computed, by stage.
        kept: Finished blocks that were found and checked, by stage.
        skipped: A line for every document that was left out.
        changes: Differences from the version before, in words; that version is kept.
        added: Documents that are new.
        replaced: Documents whose text or metadata changed.
        removed: Documents that are gone.
        unchanged: Documents that were there already.
    """

    made: dict[str, int] = field(default_factory=dict[str, int])
    kept: dict[str, int] = field(default_factory=dict[str, int])
    skipped: list[str] = field(default_factory=list[str])
    changes: list[str] = field(default_factory=list[str])
    added: int = 0
    replaced: int = 0
    removed: int = 0
    unchanged: int = 0

    def count(self, stage: str, computed: bool) -> None:
        """Count one block."""
        counts = self.made if computed else self.kept
        counts[stage] = counts.get(stage, 0) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """The options of a build: everything that decides its result, besides the documents.

    Attributes:
        folder: Folder of the store.
        tokenizer: Cuts text into tokens.
        chunk_size: Tokens per chunk.
        encoder: How chunks are compared.
        index: How vectors are indexed.
        block_bytes: Bytes of text of one block: the work that a kill can lose, and the size of a worker's job.
        engine: Where the work runs.
        on_error: Whether a document that cannot be used stops the build or is left out and reported.
        tell: Called with lines for the user.
    """

    folder: Path
    tokenizer: Tokenizer
    chunk_size: int
    encoder: Encoder
    index: IndexConfig
    block_bytes: int
    engine: Engine
    on_error: str = "stop"
    tell: Callable[[str], object] = say

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not 1 <= self.chunk_size <= MAX_CHUNK_SIZE:
            raise ValueError(f"chunk_size must be from 1 to {MAX_CHUNK_SIZE} tokens, but is {self.chunk_size}.")
        if self.block_bytes < 1:
            raise ValueError(f"block_bytes must be at least 1 byte, but is {self.block_bytes}.")
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error must be stop or skip, but is {self.on_error!r}.")
        index_kind(self.index.kind)  # fails before the work, not after it
        _, dense = parts_of(self.encoder)
        if dense is not None and self.index.factory is not None and self.index.kind == "faiss":
            check_factory(self.index.factory, dense.dimension())

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the manifest records."""
        chunking = {"chunk_size": self.chunk_size, "block_bytes": self.block_bytes}
        tokenizer = {"name": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint()}
        encoder = {"settings": self.encoder.settings(), "fingerprint": self.encoder.fingerprint()}
        return {"chunking": chunking, "tokenizer": tokenizer, "encoder": encoder, **self.vector_settings}

    @property
    def vector_settings(self) -> dict[str, Any]:
        """Those of them that are about vectors; empty for words alone."""
        _, dense = parts_of(self.encoder)
        if dense is None:
            return {}
        vectors = {"fingerprint": dense.fingerprint(), "dimension": dense.dimension()}
        return {"vectors": vectors, "index": asdict(self.index)}

    def settings_after(self, before: Manifest) -> dict[str, Any]:
        """The settings of a version that follows another: the same, unless rules of words are others by now."""
        lexical, _ = parts_of(self.encoder)
        segments = [record for record in before.indexes if record.kind == LEXICAL]
        if lexical is None or all(has_words_of(record, before.chunks, lexical) for record in segments):
            return before.settings
        self.tell("all words are indexed again: the rules by which a text is cut into words have changed")
        return before.settings | {"encoder": self.settings["encoder"]}

    def build(self, documents: Iterable[Document], report: BuildReport) -> Manifest:
        """Build a version of these documents and of those that were added; removed ones stay removed.

        The caller holds the lock.
        """
        before = _earlier_manifest(self.folder)
        settings = self.settings
        kept = _Kept() if before is None else _kept(self, before, settings, report)
        left_out = NamesMet(kept.names)
        blocks = self.chunk(documents, report, left_out=left_out)
        if left_out.met:
            told = f"{left_out.met:,} documents of the source stay as they were added, or removed, since"
            report.skipped.append(told)
        else:
            refuse_empty(documents, blocks, before, report.skipped)
        together = (*blocks, *kept.blocks)
        first = sum(block.documents for block in blocks)
        draft = Manifest(
            settings=settings,
            chunks=together,
            vectors={},
            indexes=(),
            tokenizer=keep_tokenizer(self.folder, self.tokenizer),
            removed=tuple(first + number for number in kept.removed),
            withdrawn=() if before is None else before.withdrawn,
        )
        if before is not None:
            report.changes += [*changed_settings(before, settings), *changed_documents(self.folder, before, draft)]
        for change in report.changes:
            self.tell(f"{change} (the earlier version is kept)")
        same = before is not None and [block.key for block in before.chunks] == [block.key for block in together]
        same = same and before is not None and before.settings.get("index") == settings.get("index")
        runs = vector_parts(before) if before is not None and same else []
        return self.finish(self.complete(draft, runs, report))

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, make it the current one, and remove intermediate files."""
        write_manifest(self.folder, manifest)
        if (self.folder / SHARDS).exists():
            remove(self.folder / SHARDS)
        return manifest

    def complete(
        self, draft: Manifest, runs: Sequence[Run], report: BuildReport, *, trusted: Manifest | None = None
    ) -> Manifest:
        """Make the vectors and indexes of a version, or find those that are finished.

        Args:
            draft: The version, its vectors and indexes to be filled in.
            runs: Runs of blocks whose vectors have an index already.
            report: Counts what is made.
            trusted: The version before: what it lists of the same blocks is taken without reading it. Without it
                everything is checked, and made again where it is damaged.
        """
        lexical, dense = parts_of(self.encoder)
        made: list[FolderRecord] = []
        if lexical is not None:
            made += self._index_words(draft, lexical, report, trusted)
        if dense is not None:
            draft = self._encode(draft, dense, report, trusted)
            fingerprint = draft.settings["vectors"]["fingerprint"]
            rows = vector_rows(self.folder, draft, fingerprint, dense.dimension())
            records = [] if trusted is None else vector_records(trusted)
            known = {(record.first_block, record.num_blocks): record for record in records}
            for first, count in vector_runs(draft.chunks, runs):
                record = known.get((first, count))
                made.append(record or self._index_vectors(rows.part(first, count), first, report))
        return replace(draft, indexes=tuple(made))

    def _index_words(
        self, draft: Manifest, encoder: WordEncoder, report: BuildReport, trusted: Manifest | None
    ) -> list[FolderRecord]:
        known = [] if trusted is None else [record for record in trusted.indexes if record.kind == LEXICAL]
        known = [record for record in known if has_words_of(record, draft.chunks, encoder)]
        found = {(one.first_block, one.num_blocks, tuple(one.facts["removed"])): one for one in known}
        jobs = segment_jobs(draft.chunks, draft.removed)
        records = {job: found.get((*job.run, job.removed)) for job in jobs}
        open_jobs = [job for job, record in records.items() if record is None]
        task = SegmentTask(self.folder, encoder)
        made = self.engine.map(task, open_jobs)
        rows = iter([sum(block.rows for block in job.blocks) for job in open_jobs])
        total = sum(block.rows for job in open_jobs for block in job.blocks)
        shown = with_progress(made, "index words", total=total, unit="chunks", count=lambda _: next(rows))
        for job, (record, computed) in zip(open_jobs, shown, strict=True):
            report.count(LEXICAL, computed)
            records[job] = record
        return [record for record in records.values() if record is not None]

    def _encode(
        self, draft: Manifest, encoder: VectorEncoder, report: BuildReport, trusted: Manifest | None
    ) -> Manifest:
        fingerprint = draft.settings["vectors"]["fingerprint"]
        known: dict[str, str] = {}
        if trusted is not None:
            listed = trusted.vectors.get(fingerprint, ())
            known = {block.key: sum_ for block, sum_ in zip(trusted.chunks, listed, strict=False)}
        fresh = [block for block in draft.chunks if block.key not in known]
        if fresh:
            check_model(self.folder, fingerprint, encoder)
        rows = iter([block.rows for block in fresh])
        results = self.engine.map(EncodeTask(self.folder, self.tokenizer, encoder, fingerprint), fresh)
        total = sum(block.rows for block in fresh)
        shown = with_progress(results, "encode", total=total, unit="chunks", count=lambda _: next(rows))
        for block, (checksum, computed) in zip(fresh, shown, strict=True):
            report.count("vectors", computed)
            known[block.key] = checksum
        return replace(draft, vectors={fingerprint: tuple(known[block.key] for block in draft.chunks)})

    def _index_vectors(self, part: Any, first_block: int, report: BuildReport) -> FolderRecord:
        lines: list[str] = []

        def tell(line: str) -> None:
            lines.append(line)
            self.tell(line)

        kind = index_kind(self.index.kind)
        record = kind.build(self.folder, part, self.index, first_block=first_block, engine=self.engine, say=tell)
        report.count(kind.folder, bool(lines))
        return record

    def chunk(
        self, documents: Iterable[Document], report: BuildReport, *, added: bool = False, left_out: Container[str] = ()
    ) -> list[ChunkBlock]:
        """Cut documents into blocks of chunks, without those whose name is in ``left_out``."""
        chunking = {"chunk_size": self.chunk_size, "tokenizer": self.tokenizer.fingerprint()}
        groups = group_documents(documents, chunking, self.block_bytes, self.on_error, report.skipped, left_out)
        task = ChunkTask(self.folder, self.tokenizer, self.chunk_size)
        results = self.engine.map(task, groups)
        shown = chunking_progress(results, documents)
        blocks: list[ChunkBlock] = []
        for block, computed in shown:
            report.count(CHUNKS, computed)
            blocks.append(replace(block, added=added))
        return blocks


def keep_tokenizer(folder: Path, tokenizer: Tokenizer) -> FolderRecord:
    """Save the tokenizer's files in the store, so that the store can be opened without anything else."""
    key = key_of(TOKENIZER, tokenizer.fingerprint())
    record = folder_record(folder, TOKENIZER, key)
    if record is None:
        with sealed_folder(folder, TOKENIZER, key) as temporary:
            tokenizer.save(temporary)
        record = folder_record(folder, TOKENIZER, key)
    assert record is not None, "a folder that was just sealed is undamaged"
    return record


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Lock a store against other writers, and remove what writers that were stopped have left: before, and after.

    After, because a worker of a cluster can end while its job is done again by another.

    Raises:
        BlockingIOError: If another process writes to the store.
    """
    with only_writer(folder):
        _clean(folder)
        yield
        _clean(folder)


def _clean(folder: Path) -> None:
    for path in list(temporaries(folder)):
        remove(path)


def temporaries(folder: Path) -> Iterator[Path]:
    """Temporary files and folders of interrupted builds."""
    for place in [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir() and not is_temporary(path))]:
        yield from (path for path in sorted(place.iterdir()) if is_temporary(path))


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a build takes over from the version before: what was added, and what was taken out.

    Attributes:
        blocks: Blocks of documents that were added.
        removed: Numbers of removed documents among them.
        names: Names that the source of the build does not decide on.
    """

    blocks: tuple[ChunkBlock, ...] = ()
    removed: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()


def _kept(builder: Builder, before: Manifest, settings: dict[str, Any], report: BuildReport) -> _Kept:
    corpus = Corpus(builder.folder, before.chunks, before.settings["chunking"]["chunk_size"], before.removed)
    added = [number for number, block in enumerate(before.chunks) if block.added]
    live = [(number, name) for block in added for number, name in corpus.live_names(block)]
    names = frozenset([*before.withdrawn, *(name for _, name in live)])
    cut = [("chunking", "chunk_size"), ("tokenizer", "fingerprint")]
    if all(before.settings[part][name] == settings[part][name] for part, name in cut):
        order = np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(*corpus.first_documents[block : block + 2]) for block in added)]
        )
        removed = np.flatnonzero(np.isin(order, corpus.removed))
        return _Kept(tuple(before.chunks[block] for block in added), tuple(removed.tolist()), names)
    documents = (corpus.document(number) for number, _ in live)
    return _Kept(tuple(builder.chunk(documents, report, added=True)), (), names)


def vector_records(manifest: Manifest) -> list[FolderRecord]:
    """The indexes of vectors of a version."""
    return [record for record in manifest.indexes if record.kind != LEXICAL]


def vector_parts(manifest: Manifest) -> list[Run]:
    """The runs of blocks that the indexes of vectors cover."""
    return [(record.first_block, record.num_blocks) for record in vector_records(manifest)]


def _earlier_manifest(folder: Path) -> Manifest | None:
    """The current version, ``None`` if there is none or its format is of another version of this library."""
    try:
        return read_current(folder)
    except (FileNotFoundError, MismatchError):
        return None


def kept_index(folder: Path) -> IndexConfig | None:
    """How the store in a folder indexes vectors; ``None`` if there is no store, or one without vectors."""
    before = _earlier_manifest(folder)
    kept = None if before is None else before.settings.get("index")
    return None if kept is None else IndexConfig(**kept)


def is_store(folder: Path) -> bool:
    """Whether a folder holds a store, finished or not."""
    return any((folder / name).exists() for name in (CURRENT, CHUNKS))


def refuse_foreign_folder(folder: Path) -> None:
    """Validate the folder of a build: it must be a store, or empty, or absent."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"the store must be a folder, but {str(folder)!r} is a file.")
    if folder.exists() and not is_store(folder) and any(folder.iterdir()):
        strange = sorted(path.name for path in folder.iterdir())[:3]
        message = f"{str(folder)!r} is no store and not empty (it has {', '.join(strange)}): choose a folder of its own"
        raise FileExistsError(f"{message}.")
