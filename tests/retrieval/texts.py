"""Small corpora for the datastore's tests, and an encoder of one's own."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retentive.retrieval.encoders.words import split_words
from retentive.retrieval.passages import Passages

WORDS = [f"{first}{last}" for first in ("ba", "de", "ki", "lo", "mu", "ra", "su", "ti") for last in "abcdefghijklmnop"]


def make_documents(count: int, *, seed: int = 0, words: int = 60) -> list[tuple[str, str]]:
    """Documents of random words; lengths differ, some are empty."""
    random = np.random.default_rng(seed)
    documents: list[tuple[str, str]] = []
    for number in range(count):
        length = int(random.integers(0, 2 * words)) if number % 7 else 0
        documents.append((f"folder/{number}.txt", " ".join(random.choice(WORDS, size=length).tolist())))
    return documents


class HashedWords:
    """A `VectorEncoder` without a model: words are hashed to random directions and added up."""

    def __init__(self, dimension: int = 16, scale: float = 1.0) -> None:
        self.size = dimension
        self.scale = scale

    def dimension(self) -> int:
        return self.size

    def settings(self) -> dict[str, Any]:
        return {"kind": "hashed words", "dimension": self.size, "scale": self.scale}

    def fingerprint(self) -> str:
        return hashlib.sha256(f"hashed words {self.size} {self.scale}".encode()).hexdigest()

    def encode(self, passages: Passages) -> np.ndarray:
        return np.stack([self.vector(text) for text in passages.texts()]) if len(passages) else self.nothing()

    def nothing(self) -> np.ndarray:
        return np.zeros((0, self.size), dtype=np.float32)

    def vector(self, text: str) -> np.ndarray:
        total = np.zeros(self.size)
        for word in split_words(text).keys:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
            total += np.random.default_rng(seed).standard_normal(self.size)
        length = float(np.linalg.norm(total))
        return (self.scale * total / length if length else total).astype(np.float32)


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a folder: its inode, its time of change and its content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {name: content for name, (_, _, content) in snapshot(folder).items()}


def names_current(name: str) -> bool:
    """Whether a file of a store names the current version or is the second copy of its manifest."""
    return name == "current.json" or name.startswith("spare/")


def clustered(rows: int, dimension: int, *, clusters: int = 50, seed: int = 0) -> np.ndarray:
    """Unit vectors in clusters of low dimension, as those of real text are; uniform ones have no near neighbours."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, dimension))
    basis = random.standard_normal((max(2, dimension // 4), dimension)) / 4
    vectors = centres[random.integers(0, clusters, rows)] + random.standard_normal((rows, len(basis))) @ basis
    vectors += 0.05 * random.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def damage(path: Path, how: str, others: Sequence[Path] = ()) -> None:
    """Do to a file what disks and people do."""
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) - 7])
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "zeroed":
        path.write_bytes(bytes(len(content)))
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    elif how == "swapped":
        other = next(one for one in others if one != path and one.read_bytes() != content)
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:
        raise AssertionError(how)
