"""Verifying a store: every file is read, and the damaged ones are named. Nothing is changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive.errors import DamagedFileError, RetentiveError
from retentive.files import read_checked_json
from retentive.files.progress import with_progress
from retentive.retrieval.blocks.block import SUFFIX, block_path, check_block, key_of
from retentive.retrieval.blocks.chunking import CHUNKS
from retentive.retrieval.blocks.sealed_folder import folder_problems
from retentive.retrieval.blocks.vectors import VECTORS, vector_key
from retentive.retrieval.build import temporaries
from retentive.retrieval.manifest import CURRENT, Manifest, current_key, manifest_path, read_manifest, version_keys
from retentive.retrieval.neighbours.signatures import SIGNATURES, signature_key
from retentive.retrieval.neighbours.table import BUILD_AGAIN, NEIGHBOURS, TABLES


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file or folder.

    Attributes:
        path: The file or folder.
        reason: The problem.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        """Path and problem in one line."""
        return f"{self.path} {self.reason}"


@dataclass(frozen=True, slots=True)
class _Expected:
    """A block that should exist, with the checksum in the manifest (``None`` if no manifest lists it)."""

    kind: str
    key: str
    checksum: str | None


def verify_store(folder: Path | str) -> list[Damage]:
    """Read every block, index and table of all versions, and name the damaged, missing and left-over ones.

    Building again with the same documents and options makes exactly the damaged and missing parts anew.

    Raises:
        FileNotFoundError: If there is no store.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no store in {str(folder)!r}: build one.")
    found = [Damage(path, "was left by an interrupted build") for path in temporaries(folder)]
    try:
        current = current_key(folder)
        found += [] if current in version_keys(folder) else [Damage(manifest_path(folder, current), "is missing")]
    except (RetentiveError, FileNotFoundError) as error:
        found.append(Damage(folder / CURRENT, f"does not name a version ({error})"))
    expected: dict[tuple[str, str], _Expected] = {}
    tables = list(_tables(folder, expected, found))
    for key in version_keys(folder):
        try:
            manifest = read_manifest(folder, key)
        except RetentiveError:
            found.append(Damage(manifest_path(folder, key), "does not have the content that its name is the hash of"))
            continue
        _expect_blocks(manifest, tables, expected)
        records = {(record.kind, record.key): record for record in (*manifest.indexes, manifest.tokenizer)}
        for record in records.values():
            found += [Damage(path, reason) for path, reason in folder_problems(folder, record)]
    # A table's blocks are listed in one file; if that is missing, only the blocks tell that there was a table.
    for path in sorted((folder / NEIGHBOURS).glob(f"*{SUFFIX}")):
        if (NEIGHBOURS, path.stem) not in expected:
            found.append(Damage(path, "belongs to no finished table: build the neighbours again, or delete it"))
    # Blocks hold their own checksum, so those that no manifest lists are checked as well.
    for kind in (CHUNKS, VECTORS, SIGNATURES):
        for path in (folder / kind).glob(f"*{SUFFIX}"):
            expected.setdefault((kind, path.stem), _Expected(kind, path.stem, None))
    wanted = sorted(expected.values(), key=lambda one: (one.kind, one.key))
    for one in with_progress(wanted, "verify", total=len(wanted), unit="blocks"):
        problem, checksum = check_block(folder, one.kind, one.key)
        if problem is None and one.checksum not in (None, checksum):
            problem = "is undamaged, but not the block that the manifest lists"
        if problem is not None:
            found.append(Damage(block_path(folder, one.kind, one.key), problem))
    return sorted(set(found), key=str)


def _expect_blocks(
    manifest: Manifest, tables: list[dict[str, Any]], expected: dict[tuple[str, str], _Expected]
) -> None:
    for block in manifest.chunks:
        expected[CHUNKS, block.key] = _Expected(CHUNKS, block.key, block.checksum)
    for fingerprint, checksums in manifest.vectors.items():
        for block, checksum in zip(manifest.chunks, checksums, strict=True):
            key = vector_key(fingerprint, block.key)
            expected[VECTORS, key] = _Expected(VECTORS, key, checksum)
    signed = {table["config"]["near_duplicates"] for table in tables if table["queries"] == manifest.corpus_key}
    for threshold in signed - {None}:
        for block in manifest.chunks:
            key = signature_key(block.key, threshold)
            expected[SIGNATURES, key] = _Expected(SIGNATURES, key, None)


def _tables(folder: Path, expected: dict[tuple[str, str], _Expected], found: list[Damage]) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / TABLES).glob("*.json")):
        try:
            content = read_checked_json(path, cure=BUILD_AGAIN)
            blocks = [(key_of(NEIGHBOURS, path.stem, number), sum_) for number, sum_ in enumerate(content["blocks"])]
            for key, checksum in blocks:
                expected[NEIGHBOURS, key] = _Expected(NEIGHBOURS, key, checksum)
            yield content
        except (OSError, DamagedFileError):
            found.append(Damage(path, "does not have the content that its checksum was taken of"))
