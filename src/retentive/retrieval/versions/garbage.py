"""Making what was removed and replaced leave the disk."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retentive.errors import DamagedFileError
from retentive.files import is_full_disk, read_checked_json, remove
from retentive.retrieval.blocks.block import SUFFIX, key_of
from retentive.retrieval.blocks.chunking import CHUNKS
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.blocks.vectors import VECTORS, vector_key
from retentive.retrieval.manifest import MANIFESTS, SPARE, ChunkBlock, Manifest
from retentive.retrieval.neighbours.signatures import SIGNATURES, signature_key
from retentive.retrieval.neighbours.table import BUILD_AGAIN, NEIGHBOURS, TABLES
from retentive.retrieval.versions.build import Builder, BuildReport
from retentive.retrieval.versions.updates import corpus_of


@dataclass(frozen=True, slots=True)
class Freed:
    """What `collect_garbage` did.

    Attributes:
        documents: Removed documents whose text is gone now.
        files: Files that were deleted.
        bytes: Their size.
    """

    documents: int
    files: int
    bytes: int

    def __add__(self, other: "Freed") -> "Freed":
        """Both together."""
        return Freed(self.documents + other.documents, self.files + other.files, self.bytes + other.bytes)


def compact(builder: Builder, before: Manifest, report: BuildReport) -> Manifest:
    """A version without removed documents, their blocks cut again from the kept text; chunks get other ids.

    Additions that are much smaller than a block are put together.
    """
    corpus = corpus_of(builder, before)
    blocks: list[ChunkBlock] = []
    for numbers in _groups(builder, corpus):
        untouched = len(numbers) == 1 and not _removed_in(corpus, numbers[0])
        if untouched:
            blocks.append(corpus.blocks[numbers[0]])
            continue
        documents = (corpus.document(number) for block in numbers for number, _ in corpus.live_names(block))
        blocks += builder.chunk(documents, report, added=corpus.blocks[numbers[0]].added)
    draft = replace(before, settings=builder.settings_after(before), chunks=tuple(blocks), removed=())
    if draft == before:
        return before
    return builder.finish(builder.complete(draft, [], report, trusted=replace(before, indexes=())))


def compact_in_room(builder: Builder, before: Manifest, report: BuildReport) -> tuple[Manifest, Freed]:
    """`compact`; where the disk is full, what the version before does not need is deleted, and it is tried once more.

    That is not done at first: what an interrupted `compact` had finished is not needed by that version either, and is
    taken up.

    Returns:
        The new version, and what was deleted.

    Raises:
        OSError: If there is no room even so.
    """
    try:
        return compact(builder, before, report), Freed(0, 0, 0)
    except OSError as error:
        if not is_full_disk(error):
            raise
    freed = collect_garbage(builder.folder, before, 0)
    try:
        return compact(builder, before, report), freed
    except OSError as error:
        if not is_full_disk(error):
            raise
        first = "gc writes the text that stays before it deletes the files in which removed documents are"
        raise OSError(error.errno, f"{error.strerror}; {first}", error.filename) from error


def _groups(builder: Builder, corpus: Corpus) -> Iterator[list[int]]:
    """Blocks that are cut again together: each by itself, but for runs of small additions."""
    run: list[int] = []
    for number, block in enumerate(corpus.blocks):
        sizes = corpus.arrays(number)["text_ends"]
        small = block.added and 2 * int(sizes[-1] if len(sizes) else 0) < builder.block_bytes
        if run and not small:
            yield run
            run = []
        if small:
            run.append(number)
        else:
            yield [number]
    if run:
        yield run


def _removed_in(corpus: Corpus, block: int) -> bool:
    begin, end = corpus.first_documents[block : block + 2]
    return bool(np.isin(corpus.removed, np.arange(begin, end)).any())


def collect_garbage(folder: Path, manifest: Manifest, removed: int) -> Freed:
    """Delete every file that the current version does not need; the caller holds the lock.

    Args:
        folder: Folder of the store.
        manifest: The current version.
        removed: Documents that were left out of it, for the report.
    """
    wanted = _wanted(folder, manifest)
    files = size = 0
    for kind in _kinds(folder):
        for path in sorted((folder / kind).iterdir()):
            if path.relative_to(folder).as_posix() not in wanted:
                inside = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
                files, size = files + len(inside), size + sum(one.stat().st_size for one in inside)
                remove(path)
    return Freed(removed, files, size)


def _kinds(folder: Path) -> list[str]:
    return [path.name for path in sorted(folder.iterdir()) if path.is_dir() and path.name != SPARE]


def _wanted(folder: Path, manifest: Manifest) -> set[str]:
    """Paths in the store of what a version needs."""
    found = {f"{MANIFESTS}/{manifest.key}.json"}
    found |= {f"{record.kind}/{record.key}" for record in (*manifest.indexes, manifest.tokenizer)}
    for block in manifest.chunks:
        found.add(f"{CHUNKS}/{block.key}{SUFFIX}")
        found |= {f"{VECTORS}/{vector_key(fingerprint, block.key)}{SUFFIX}" for fingerprint in manifest.vectors}
    for path in (folder / TABLES).glob("*.json"):
        try:
            table = read_checked_json(path, cure=BUILD_AGAIN)
        except (OSError, DamagedFileError):
            continue
        own = table["database"]["folder"] == "."
        if table["queries"] != manifest.corpus_key or (own and table["database_corpus"] != manifest.corpus_key):
            continue
        found.add(f"{TABLES}/{path.name}")
        found |= {
            f"{NEIGHBOURS}/{key_of(NEIGHBOURS, path.stem, number)}{SUFFIX}" for number in range(len(table["blocks"]))
        }
        threshold = table["config"]["near_duplicates"]
        if threshold is not None:
            found |= {f"{SIGNATURES}/{signature_key(block.key, threshold)}{SUFFIX}" for block in manifest.chunks}
    return found
