"""Manifests list the parts of a version of a store. They are immutable; one small file names the current version."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retentive.errors import DamagedFileError
from retentive.files import canonical_json, check_version, read_json
from retentive.retrieval.blocks.block import FORMAT_VERSION, STORE_CURE, key_of, write_store_file

CURRENT = "current.json"
MANIFESTS = "manifests"
UPGRADE = "a store of an earlier version is rebuilt from its own text by: retentive index upgrade --store {folder}"
SPARE = "spare"
"""Folder with a second copy of the current manifest and of the file that names it: no other file could replace them."""

_NO_CURE = "both copies are damaged, and no other file says what was added and removed: build in another folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkBlock:
    """One block of chunks.

    Attributes:
        key: Its name.
        rows: Chunks in it.
        documents: Documents in it, those without any token included.
        tokens: Tokens in it.
        checksum: SHA-256 of its content.
        added: Whether `Datastore.add` brought it: builds and syncs of a source leave it alone.
    """

    key: str
    rows: int
    documents: int
    tokens: int
    checksum: str
    added: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderRecord:
    """A folder of files that belong together: part of an index, or the tokenizer.

    Attributes:
        kind: Kind of its content; also the name of its parent folder.
        key: Its own name.
        files: SHA-256 of each file.
        first_block: First block of chunks that it covers.
        num_blocks: How many blocks it covers.
        facts: What was measured when it was built, such as its factory string and its recall.
    """

    kind: str
    key: str
    files: dict[str, str]
    first_block: int = 0
    num_blocks: int = 0
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of a store.

    Attributes:
        settings: Everything that decides its content besides the documents: chunk size, tokenizer, encoder.
        chunks: Blocks of chunks; their order gives every chunk its id.
        vectors: Checksum of the block of vectors of each block of chunks, by encoder key.
        indexes: Parts of its indexes.
        tokenizer: Files of the tokenizer.
        removed: Numbers of the removed documents.
        withdrawn: Names of the documents that `Datastore.remove` took out and nothing brought back: builds and syncs of
            a source leave them out.
    """

    settings: dict[str, Any]
    chunks: tuple[ChunkBlock, ...]
    vectors: dict[str, tuple[str, ...]]
    indexes: tuple[FolderRecord, ...]
    tokenizer: FolderRecord
    removed: tuple[int, ...] = ()
    withdrawn: tuple[str, ...] = ()

    @property
    def corpus_key(self) -> str:
        """Key of the text and its chunks: equal if all ids are, whatever the index."""
        return key_of("corpus", [block.key for block in self.chunks])

    def text(self) -> str:
        """The manifest as it is written to disk."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, sort_keys=True, indent=1) + "\n"

    @property
    def key(self) -> str:
        """Key of this version: a hash of its manifest."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:32]


def manifest_path(folder: Path, key: str) -> Path:
    """The path of a manifest."""
    return folder / MANIFESTS / f"{key}.json"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest and make it the current one; each file of it is written twice."""
    text = manifest.text().encode()
    pointer = (canonical_json({"manifest": manifest.key}) + "\n").encode()
    for path in (spare_path(folder, manifest.key), manifest_path(folder, manifest.key)):
        if manifest_problem(path) is not None:
            write_store_file(path, text)
    for path in (folder / SPARE / CURRENT, folder / CURRENT):
        if not path.exists() or path.read_bytes() != pointer:
            write_store_file(path, pointer)
    for path in (folder / SPARE).glob("*.json"):
        if path.name not in (CURRENT, f"{manifest.key}.json"):
            path.unlink()


def spare_path(folder: Path, key: str) -> Path:
    """The path of the second copy of the current manifest."""
    return folder / SPARE / f"{key}.json"


def current_key(folder: Path) -> str:
    """Key of the current version.

    Raises:
        FileNotFoundError: If there is no store, or no finished one.
        DamagedFileError: If the files that name the current version are damaged.
    """
    pointers = [folder / CURRENT, folder / SPARE / CURRENT]
    if not any(path.exists() for path in pointers):
        begun = (folder / "chunks").exists()
        cure = "its build was interrupted: build it again, finished blocks are kept" if begun else "build one"
        raise FileNotFoundError(f"there is no finished store in {str(folder)!r}: {cure}.")
    named = list(dict.fromkeys(key for path in pointers if (key := pointed_key(path)) is not None))
    if len(named) > 1:  # one of them is altered, or a writer is between the two
        named = [key for key in named if is_whole(folder, key)] or named
    if named:
        return named[0]
    raise DamagedFileError(f"{pointers[0]} does not name a version: {_NO_CURE}.")


def is_whole(folder: Path, key: str) -> bool:
    """Whether a version has a manifest, or a copy of it, with the content that its key is the hash of."""
    return any(manifest_problem(path) is None for path in (manifest_path(folder, key), spare_path(folder, key)))


def pointed_key(path: Path) -> str | None:
    """The version that a file names, or ``None`` if it names none."""
    try:
        key = read_json(path, cure=STORE_CURE).get("manifest")
    except (OSError, DamagedFileError):
        return None
    return key if isinstance(key, str) and len(key) == 32 and set(key) <= set("0123456789abcdef") else None


def read_manifest(folder: Path, key: str) -> Manifest:
    """Read one version.

    Raises:
        DamagedFileError: If it is missing or altered.
        MismatchError: If another version of this library wrote it.
    """
    path = manifest_path(folder, key)
    problem = manifest_problem(path)
    if problem is not None:
        path = spare_path(folder, key)
        if manifest_problem(path) is not None:
            raise DamagedFileError(f"{manifest_path(folder, key)} {problem}: {_NO_CURE}.")
    content = read_json(path, cure=STORE_CURE)
    check_version(content, path, FORMAT_VERSION, cure=UPGRADE.format(folder=folder))
    try:
        return Manifest(
            settings=content["settings"],
            chunks=tuple(ChunkBlock(**entry) for entry in content["chunks"]),
            vectors={name: tuple(checksums) for name, checksums in content["vectors"].items()},
            indexes=tuple(FolderRecord(**entry) for entry in content["indexes"]),
            tokenizer=FolderRecord(**content["tokenizer"]),
            removed=tuple(content["removed"]),
            withdrawn=tuple(content["withdrawn"]),
        )
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} lacks entries ({error}): build the store again.") from error


def read_current(folder: Path) -> Manifest:
    """Read the current version, though a writer may make another one current and delete this one meanwhile.

    Raises:
        FileNotFoundError: If there is no store, or no finished one.
        DamagedFileError: If it is missing or altered.
        MismatchError: If another version of this library wrote it.
    """
    while True:
        key = current_key(folder)
        try:
            return read_manifest(folder, key)
        except (DamagedFileError, FileNotFoundError):
            if current_key(folder) == key:
                raise


def manifest_problem(path: Path) -> str | None:
    """The problem of a manifest, or ``None``: its name must be the hash of its content."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if hashlib.sha256(content).hexdigest()[:32] != path.stem:
        return "does not have the content that its name is the hash of"
    return None


def version_keys(folder: Path) -> list[str]:
    """Keys of all versions that a folder holds."""
    return sorted(path.stem for path in (folder / MANIFESTS).glob("*.json"))
