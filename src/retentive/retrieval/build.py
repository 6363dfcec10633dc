"""Building a version of a store: documents to chunks, chunks to words or vectors, those to indexes, then a manifest."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from retentive.config_types import check_types
from retentive.errors import RetentiveError
from retentive.files import is_temporary, remove
from retentive.files.progress import say, with_progress
from retentive.retrieval.blocks.block import key_of
from retentive.retrieval.blocks.chunking import (
    CHUNKS,
    MAX_CHUNK_SIZE,
    Document,
    DocumentParts,
    document_hash,
    document_parts,
    group_documents,
)
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.blocks.sealed_folder import folder_record, sealed_folder
from retentive.retrieval.encoders.protocol import Encoder, parts_of
from retentive.retrieval.engines.engine import Engine
from retentive.retrieval.index import index_kind
from retentive.retrieval.index.choice import IndexConfig
from retentive.retrieval.index.faiss_build import SHARDS
from retentive.retrieval.index.lexical_index import LEXICAL
from retentive.retrieval.manifest import (
    CURRENT,
    ChunkBlock,
    FolderRecord,
    Manifest,
    current_key,
    read_manifest,
    write_manifest,
)
from retentive.retrieval.search.searcher import vector_rows
from retentive.retrieval.stages import ChunkTask, EncodeTask, SegmentTask, segment_jobs
from retentive.text.tokenizer import Tokenizer

TOKENIZER = "tokenizer"


@runtime_checkable
class MeasuredDocuments(Protocol):
    """Documents without a known count that tell how many bytes are read, for the progress bar.

    Attributes:
        total_bytes: Of the sources.
        read_bytes: So far.
    """

    total_bytes: int
    read_bytes: int


@dataclass(slots=True)
class BuildReport:
    """The result of a build, in counts and lines.

    Attributes:
        made: Blocks that were computed, by stage.
        kept: Finished blocks that were found and checked, by stage.
        skipped: A line for every document that was left out.
        changes: Differences from the version before, in words; that version is kept.
    """

    made: dict[str, int] = field(default_factory=dict[str, int])
    kept: dict[str, int] = field(default_factory=dict[str, int])
    skipped: list[str] = field(default_factory=list[str])
    changes: list[str] = field(default_factory=list[str])

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

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the manifest records."""
        chunking = {"chunk_size": self.chunk_size, "block_bytes": self.block_bytes}
        tokenizer = {"name": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint()}
        encoder = {"settings": self.encoder.settings(), "fingerprint": self.encoder.fingerprint()}
        made: dict[str, Any] = {"chunking": chunking, "tokenizer": tokenizer, "encoder": encoder}
        _, dense = parts_of(self.encoder)
        if dense is not None:
            made["vectors"] = {"fingerprint": dense.fingerprint(), "dimension": dense.dimension()}
        return made

    def build(self, documents: Iterable[Document], report: BuildReport) -> Manifest:
        """Build a version of exactly these documents; the caller holds the lock."""
        clean(self.folder)
        before = _readable_manifest(self.folder)
        settings = self.settings
        report.changes += changed_settings(before, settings) if before is not None else []
        blocks = self._chunk(documents, report)
        if before is not None:
            report.changes += changed_documents(self.folder, before, blocks)
        for change in report.changes:
            self.tell(f"{change} (the earlier version is kept)")
        manifest = self.complete(settings, blocks, (), report, first_block=0, indexes=())
        return self.finish(manifest)

    def extend(self, before: Manifest, documents: Iterable[Document], report: BuildReport) -> Manifest:
        """Build a version with more documents at the end; indexes over the earlier ones are kept."""
        clean(self.folder)
        blocks = self._chunk(documents, report)
        if not blocks:
            return before
        first = len(before.chunks)
        together = (*before.chunks, *blocks)
        manifest = self.complete(
            before.settings, together, before.removed, report, first_block=first, indexes=before.indexes
        )
        return self.finish(manifest)

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, make it the current one, and remove intermediate files."""
        write_manifest(self.folder, manifest)
        if (self.folder / SHARDS).exists():
            remove(self.folder / SHARDS)
        return manifest

    def complete(
        self,
        settings: dict[str, Any],
        blocks: Sequence[ChunkBlock],
        removed: Sequence[int],
        report: BuildReport,
        *,
        first_block: int,
        indexes: Sequence[FolderRecord],
    ) -> Manifest:
        """Encode all blocks, and index those from ``first_block`` on beside the given ``indexes``."""
        lexical, dense = parts_of(self.encoder)
        tokenizer = keep_tokenizer(self.folder, self.tokenizer)
        manifest = Manifest(
            settings=settings,
            chunks=tuple(blocks),
            vectors={},
            indexes=(),
            tokenizer=tokenizer,
            removed=tuple(sorted(removed)),
        )
        made = list(indexes)
        total = sum(block.rows for block in blocks)
        if lexical is not None:
            jobs = segment_jobs(blocks[first_block:], first_block)
            task = SegmentTask(self.folder, lexical)
            shown = with_progress(self.engine.map(task, jobs), "index words", total=len(jobs), unit="segments")
            for record, computed in shown:
                report.count(LEXICAL, computed)
                made.append(record)
        if dense is not None:
            fingerprint = settings["vectors"]["fingerprint"]
            task = EncodeTask(self.folder, self.tokenizer, dense, fingerprint)
            rows = iter([block.rows for block in blocks])
            results = self.engine.map(task, blocks)
            shown = with_progress(results, "encode", total=total, unit="chunks", count=lambda _: next(rows))
            checksums: list[str] = []
            for checksum, computed in shown:
                report.count("vectors", computed)
                checksums.append(checksum)
            manifest = replace(manifest, vectors={fingerprint: tuple(checksums)})
            vectors = vector_rows(self.folder, manifest, fingerprint, dense.dimension())
            part = vectors.part(first_block, len(blocks) - first_block)
            made.append(self._index_vectors(part, first_block, report))
        return replace(manifest, indexes=tuple(made))

    def _index_vectors(self, part: Any, first_block: int, report: BuildReport) -> FolderRecord:
        lines: list[str] = []

        def tell(line: str) -> None:
            lines.append(line)
            self.tell(line)

        kind = index_kind(self.index.kind)
        record = kind.build(self.folder, part, self.index, first_block=first_block, engine=self.engine, say=tell)
        report.count(kind.folder, bool(lines))
        return record

    def _chunk(self, documents: Iterable[Document], report: BuildReport) -> list[ChunkBlock]:
        chunking = {"chunk_size": self.chunk_size, "tokenizer": self.tokenizer.fingerprint()}
        groups = group_documents(documents, chunking, self.block_bytes, self.on_error, report.skipped)
        task = ChunkTask(self.folder, self.tokenizer, self.chunk_size)
        results = self.engine.map(task, groups)
        shown = _chunking_progress(results, documents)
        blocks: list[ChunkBlock] = []
        for block, computed in shown:
            report.count(CHUNKS, computed)
            blocks.append(block)
        return blocks


def _chunking_progress(
    results: Iterable[tuple[ChunkBlock, bool]], documents: Iterable[Document]
) -> Iterator[tuple[ChunkBlock, bool]]:
    if not isinstance(documents, MeasuredDocuments):
        total = len(documents) if isinstance(documents, Sized) else None
        return with_progress(results, "chunk", total=total, unit="documents", count=lambda made: made[0].documents)
    shown = 0

    def read(_: object) -> int:
        nonlocal shown
        more, shown = documents.read_bytes - shown, documents.read_bytes
        return more

    return with_progress(results, "chunk", total=documents.total_bytes, unit="bytes", count=read)


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


def clean(folder: Path) -> None:
    """Remove temporary files of interrupted builds; the caller holds the lock."""
    for path in temporaries(folder):
        remove(path)


def temporaries(folder: Path) -> Iterator[Path]:
    """Temporary files and folders of interrupted builds."""
    for place in [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir() and not is_temporary(path))]:
        yield from (path for path in sorted(place.iterdir()) if is_temporary(path))


def changed_settings(before: Manifest, settings: dict[str, Any]) -> list[str]:
    """Differences between settings, in words."""
    changes: list[str] = []
    old, new = before.settings, settings
    for name in ("chunk_size", "block_bytes"):
        if old["chunking"][name] != new["chunking"][name]:
            changes.append(f"{name} was {old['chunking'][name]} and is {new['chunking'][name]}")
    if old["tokenizer"]["fingerprint"] != new["tokenizer"]["fingerprint"]:
        changes.append(f"the tokenizer was {_short(old['tokenizer'])} and is {_short(new['tokenizer'])}")
    if old["encoder"]["fingerprint"] != new["encoder"]["fingerprint"]:
        kinds = [entry["encoder"]["settings"].get("kind", "own") for entry in (old, new)]
        prints = [entry["encoder"]["fingerprint"][:8] for entry in (old, new)]
        changes.append(f"the encoder was {kinds[0]} ({prints[0]}) and is {kinds[1]} ({prints[1]})")
    return changes


def changed_documents(folder: Path, before: Manifest, blocks: Sequence[ChunkBlock]) -> list[str]:
    """Documents that are new, gone or altered since a version, in words; only blocks that differ are read."""
    old_keys, new_keys = {block.key for block in before.chunks}, {block.key for block in blocks}
    try:
        old = document_hashes(folder, [block for block in before.chunks if block.key not in new_keys])
    except RetentiveError as error:
        return [f"the changes since the last build are not known: {error}"]
    new = document_hashes(folder, [block for block in blocks if block.key not in old_keys])
    groups = {
        "altered": [name for name in new if name in old and new[name] != old[name]],
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    return [_listed(kind, names) for kind, names in groups.items() if names]


def document_hashes(folder: Path, blocks: Sequence[ChunkBlock]) -> dict[str, bytes]:
    """The `document_hash` of each document in the blocks, by name."""
    corpus = Corpus(folder, blocks, 1, ())
    found: dict[str, bytes] = {}
    for number in range(len(blocks)):
        texts = corpus.arrays(number)["text_hashes"]
        parts = zip(corpus.block_names(number), texts, corpus.block_metadata(number), strict=True)
        found |= {name: document_hash(digest.tobytes(), metadata) for name, digest, metadata in parts}
    return found


def named(documents: Iterable[Document]) -> Iterator[DocumentParts]:
    """Convert documents to name, text and metadata."""
    return (document_parts(document) for document in documents)


def _listed(kind: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    those = "document is" if len(names) == 1 else "documents are"
    return f"{len(names):,} {those} {kind} since the last build: {shown}"


def _short(tokenizer: dict[str, Any]) -> str:
    return f"{tokenizer['name']} ({tokenizer['fingerprint'][:8]})"


def _readable_manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder, current_key(folder))
    except (FileNotFoundError, RetentiveError):
        return None


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
