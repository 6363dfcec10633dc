"""Splitting and sampling documents by a hash of their content."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from retentive.data.manifest import Split


@dataclass(frozen=True, slots=True)
class HeldOutByName:
    """A split by names, with the digests of the texts of training: a copy of one of them must not be held out.

    Attributes:
        is_held_out: Whether a document of this name is.
        training: Digests of all others.
    """

    is_held_out: Callable[[str], bool]
    training: frozenset[bytes]

    @classmethod
    def of(cls, is_held_out: Callable[[str], bool], documents: Iterable[tuple[str, bytes]]) -> "HeldOutByName":
        """Read all names and contents once."""
        training = (_digest(content) for name, content in documents if not is_held_out(name))
        return cls(is_held_out, frozenset(training))

    def split_of(self, name: str, content: bytes) -> Split | None:
        """The split of a document; None for a copy in the held-out part."""
        if not self.is_held_out(name):
            return "train"
        return None if _digest(content) in self.training else "heldout"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def split_of(content: bytes, *, heldout_fraction: float, seed: int) -> Split:
    """Decide the split of one document from its content alone.

    So the decision is the same for any order of files, any name and any folder, and exact copies of a document are
    never on both sides, which would let a model be tested on what it was trained on. An edited document may change
    sides; a store is always split as a whole.

    Args:
        content: The document in UTF-8.
        heldout_fraction: Probability of ``heldout``, 0 to below 1: the share of documents, not of bytes.
        seed: Another seed draws another split.
    """
    return "heldout" if draw(content, heldout_purpose(seed)) < heldout_fraction else "train"


def heldout_purpose(seed: int) -> str:
    """The purpose that `draw` takes to decide the split."""
    return f"heldout {seed}"


def draw(content: bytes, purpose: str) -> float:
    """A pseudo-random number from 0 to below 1 that depends on content and purpose alone."""
    digest = hashlib.blake2b(content, digest_size=8, key=purpose.encode()).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
