"""Sizes and SHA-256 checksums of files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file as a manifest lists it: its path in the folder, its size in bytes and its SHA-256."""

    path: str
    size: int
    sha256: str


def checksum(path: Path, on_bytes: Callable[[int], object] | None = None) -> str:
    """Compute the SHA-256 of a file, read in parts; ``on_bytes`` is called with the size of each part."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
            if on_bytes is not None:
                on_bytes(len(part))
    return digest.hexdigest()
