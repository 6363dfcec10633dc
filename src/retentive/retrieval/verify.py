"""Verifying a store: every file is read, and the damaged ones are named with the cure. Nothing is changed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retentive.errors import DamagedFileError, RetentiveError
from retentive.files import has_writer, read_checked_json
from retentive.files.progress import with_progress
from retentive.retrieval.blocks.block import SUFFIX, block_path, check_block, key_of
from retentive.retrieval.blocks.chunking import CHUNKS
from retentive.retrieval.blocks.sealed_folder import folder_problems
from retentive.retrieval.blocks.vectors import VECTORS, vector_key
from retentive.retrieval.manifest import (
    CURRENT,
    SPARE,
    Manifest,
    current_key,
    is_whole,
    manifest_path,
    manifest_problem,
    pointed_key,
    read_manifest,
    spare_path,
    version_keys,
)
from retentive.retrieval.neighbours.signatures import SIGNATURES, signature_key
from retentive.retrieval.neighbours.table import BUILD_AGAIN, NEIGHBOURS, TABLES
from retentive.retrieval.versions.build import TOKENIZER, temporaries

_PASSES = 3
"""Readings of a store that others write to meanwhile, at most: damage is what all of them find."""

_ALTERED = "does not have the content that its name is the hash of"
_GC = "retentive index gc deletes it"
_ANEW = "build a store in another folder from its source"
_REINDEX = "retentive index reindex makes it again, without a source"
_SOURCE = "build or sync the store from its source again, which keeps all else"
_ADD = "add the documents of it again, which keeps all else"
_TABLE = "build the neighbours again (retentive index reindex --table true)"
_TOKENIZER = "build the store again with the same tokenizer, or open it with tokenizer= and reindex it"
_DERIVED = {VECTORS: _REINDEX, SIGNATURES: _TABLE, NEIGHBOURS: _TABLE, TABLES: _TABLE, TOKENIZER: _TOKENIZER}


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file or folder.

    Attributes:
        path: The file or folder.
        reason: The problem.
        cure: What to do.
    """

    path: Path
    reason: str
    cure: str

    def __str__(self) -> str:
        """Path, problem and cure in one line."""
        return f"{self.path} {self.reason}: {self.cure}"


@dataclass(slots=True)
class _Block:
    """A block that is in the folder or should be; listed checksums are those of manifests and tables."""

    cure: str
    checksums: set[str] = field(default_factory=set[str])


def verify_store(folder: Path | str) -> list[Damage]:
    """Read every block, index and table of all versions, and name the damaged, missing and left-over ones.

    What another process is writing meanwhile is not taken for damage.

    Raises:
        FileNotFoundError: If there is no store.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no store in {str(folder)!r}: build one.")
    found: list[Damage] | None = None
    for _ in range(_PASSES):
        before, active = _pointer_files(folder), has_writer(folder)
        again = _damage(folder, active)
        written = active or has_writer(folder) or _pointer_files(folder) != before
        # A writer may have deleted what was listed a moment ago; damage is still there.
        same = {(one.path, one.reason) for one in again}
        found = again if found is None or not written else [one for one in found if (one.path, one.reason) in same]
        if not found or not written:
            break
    return found or []


def _pointer_files(folder: Path) -> list[tuple[int, int] | None]:
    """What every writer changes that makes a version."""
    found: list[tuple[int, int] | None] = []
    for path in (folder / CURRENT, folder / SPARE / CURRENT):
        try:
            status = path.stat()
            found.append((status.st_ino, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


def _damage(folder: Path, active: bool) -> list[Damage]:
    left = "was left by an interrupted build"
    found = [] if active else [Damage(path, left, f"{_GC}, and so does the next build") for path in temporaries(folder)]
    found += _pointers(folder, active)
    blocks: dict[tuple[str, str], _Block] = {}
    tables = list(_tables(folder, blocks, found))
    found += _versions(folder, tables, blocks, active)
    if not active:  # a table's list is written last
        for path in sorted((folder / NEIGHBOURS).glob(f"*{SUFFIX}")):
            if (NEIGHBOURS, path.stem) not in blocks:
                found.append(Damage(path, "belongs to no finished table", f"{_TABLE}, or {_GC}"))
    # Blocks hold their own checksum, so those that no manifest lists are checked as well.
    for kind in (CHUNKS, VECTORS, SIGNATURES):
        for path in (folder / kind).glob(f"*{SUFFIX}"):
            blocks.setdefault((kind, path.stem), _Block(_GC))
    wanted = sorted(blocks.items())
    for (kind, key), block in with_progress(wanted, "verify", total=len(wanted), unit="blocks"):
        problem, checksum = check_block(folder, kind, key)
        if problem is None and block.checksums - {checksum}:
            problem = "is undamaged, but not the block that the manifest lists"
        if problem is not None:
            found.append(Damage(block_path(folder, kind, key), problem, block.cure))
    return sorted(set(found), key=str)


def _pointers(folder: Path, active: bool) -> list[Damage]:
    """Damage of the files that name the current version, and of the copies of its manifest."""
    try:
        current = current_key(folder)
    except (RetentiveError, FileNotFoundError) as error:
        return [Damage(folder / CURRENT, f"does not name a version ({error})", _ANEW)]
    pointers = (folder / CURRENT, folder / SPARE / CURRENT)
    named = {path: pointed_key(path) for path in pointers}
    if active:  # a writer may be between the two
        named = {path: key for path, key in named.items() if key is None or not is_whole(folder, key)}
    found = [Damage(path, "does not name the version", _REINDEX) for path, key in named.items() if key != current]
    copies = {path: manifest_problem(path) for path in (manifest_path(folder, current), spare_path(folder, current))}
    cure = _ANEW if all(copies.values()) else _REINDEX
    return [*found, *(Damage(path, problem, cure) for path, problem in copies.items() if problem is not None)]


def _versions(
    folder: Path, tables: list[dict[str, Any]], blocks: dict[tuple[str, str], _Block], active: bool
) -> Iterator[Damage]:
    """Damage of manifests and of the folders that they list; their blocks are noted for later."""
    try:
        current = current_key(folder)
    except (RetentiveError, FileNotFoundError):
        current = ""
    keys = [] if active else version_keys(folder)  # a writer may be deleting earlier ones
    for key in [*(key for key in keys if key != current), *([current] if current else [])]:
        try:
            manifest = read_manifest(folder, key)
        except FileNotFoundError:
            continue  # deleted a moment ago
        except RetentiveError:
            if key != current:
                yield Damage(manifest_path(folder, key), _ALTERED, _GC)
            continue
        is_current = key == current
        _expect_blocks(manifest, tables, blocks, is_current)
        for record in (*manifest.indexes, manifest.tokenizer):
            cure = _DERIVED.get(record.kind, _REINDEX) if is_current else _GC
            for path, reason in folder_problems(folder, record):
                yield Damage(path, reason, cure)


def _expect_blocks(
    manifest: Manifest, tables: list[dict[str, Any]], blocks: dict[tuple[str, str], _Block], is_current: bool
) -> None:
    def expect(kind: str, key: str, cure: str, checksum: str | None) -> None:
        block = blocks.setdefault((kind, key), _Block(cure))
        block.cure = cure if is_current else block.cure
        block.checksums |= set() if checksum is None else {checksum}

    for block in manifest.chunks:
        cure = _ADD if block.added else _SOURCE
        expect(CHUNKS, block.key, cure if is_current else _GC, block.checksum)
    for fingerprint, checksums in manifest.vectors.items():
        for block, checksum in zip(manifest.chunks, checksums, strict=True):
            expect(VECTORS, vector_key(fingerprint, block.key), _REINDEX if is_current else _GC, checksum)
    signed = {table["config"]["near_duplicates"] for table in tables if table["queries"] == manifest.corpus_key}
    for threshold in signed - {None}:
        for block in manifest.chunks:
            expect(SIGNATURES, signature_key(block.key, threshold), _TABLE, None)


def _tables(folder: Path, blocks: dict[tuple[str, str], _Block], found: list[Damage]) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / TABLES).glob("*.json")):
        try:
            content = read_checked_json(path, cure=BUILD_AGAIN)
            for number, checksum in enumerate(content["blocks"]):
                blocks[NEIGHBOURS, key_of(NEIGHBOURS, path.stem, number)] = _Block(_TABLE, {checksum})
            yield content
        except FileNotFoundError:
            continue  # deleted a moment ago
        except (OSError, DamagedFileError):
            found.append(Damage(path, "does not have the content that its checksum was taken of", _TABLE))
