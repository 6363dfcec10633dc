"""Cutting documents into chunks of a fixed number of tokens; every document starts a new chunk.

The text is kept beside the chunks, with the byte of its document at which each chunk begins: what is shown and what is
searched by words comes from the text. Chunks share a document out, so every byte of it is in one of them.

Consecutive documents form groups of about ``block_bytes`` of text, and each group becomes one block. A block is thus a
pure function of its own documents, and which documents share a block depends only on their order and lengths. A
document is never split over two blocks.
"""

import hashlib
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import UInt64

from retentive.files import canonical_json
from retentive.retrieval.blocks.block import key_of
from retentive.retrieval.blocks.texts import Metadata
from retentive.retrieval.passages import Rows
from retentive.text.pieces import utf8_pieces

CHUNKS = "chunks"
MAX_CHUNK_SIZE = 65535


@runtime_checkable
class NamedText(Protocol):
    """A document: a unique name, for example a path, and its text; it may also have ``metadata``, a dictionary."""

    @property
    def name(self) -> str:
        """The unique name."""
        ...

    @property
    def text(self) -> str:
        """The text."""
        ...


Document = NamedText | tuple[str, str] | tuple[str, str, Metadata]
"""An input document; a tuple is ``(name, text)`` or ``(name, text, metadata)``."""

DocumentParts = tuple[str, str, Metadata]
"""Name, text and metadata of a document."""


@dataclass(frozen=True, slots=True)
class DocumentGroup:
    """The documents of one block.

    Attributes:
        key: Name of the block, from the chunking and from names, texts and metadata.
        names: Names of the documents.
        texts: Their texts.
        hashes: SHA-256 of each text.
        metadata: Columns of each document.
    """

    key: str
    names: list[str]
    texts: list[str]
    hashes: list[bytes]
    metadata: list[Metadata]


def document_parts(document: object) -> DocumentParts:
    """Name, text and metadata of a document.

    Raises:
        TypeError: If it is neither a tuple of them nor has ``name`` and ``text``.
        ValueError: If a value of the metadata is neither a string nor a finite number, a truth value or ``None``.
    """
    if isinstance(document, tuple):
        parts: tuple[Any, ...] = document
    elif isinstance(document, NamedText):
        parts = (document.name, document.text, getattr(document, "metadata", None) or {})
    else:
        parts = ()
    if len(parts) not in (2, 3) or not all(isinstance(part, str) for part in parts[:2]):
        raise TypeError(f"documents must be (name, text) pairs of strings, but one is a {type(document).__name__}.")
    metadata: Any = parts[2] if len(parts) == 3 else {}
    if not isinstance(metadata, Mapping) or not all(isinstance(column, str) for column in metadata):
        raise TypeError(f"metadata of document {parts[0]!r} must be a dictionary whose keys are strings.")
    for column, value in metadata.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
            message = f"metadata of document {parts[0]!r} has {value!r} in column {column!r}"
            raise ValueError(f"{message}: values are strings, finite numbers, truth values or None.")
    return cast("DocumentParts", (parts[0], parts[1], dict(metadata)))


def document_hash(text_hash: bytes, metadata: Metadata) -> bytes:
    """Equal if text and metadata are: the text's SHA-256 alone, or hashed with the metadata where there is some."""
    return hashlib.sha256(text_hash + canonical_json(dict(metadata)).encode()).digest() if metadata else text_hash


def group_documents(
    documents: Iterable[Document],
    settings: dict[str, Any],
    block_bytes: int,
    on_error: str,
    skipped: list[str],
    left_out: Container[str] = (),
) -> Iterator[DocumentGroup]:
    """Group consecutive documents until their text fills a block.

    Args:
        documents: Read once, one group in memory at a time.
        settings: Settings of the chunking; part of every key.
        block_bytes: Bytes of UTF-8 that close a group.
        on_error: ``stop`` or ``skip``, for a document that is not encodable as UTF-8 or repeats a name.
        skipped: A line is appended for each document that cannot be used.
        left_out: Names of documents to leave out; the others are grouped as if they were there, so that the blocks
            of other documents do not change.

    Raises:
        ValueError: For such a document, with its name, if ``on_error`` is ``stop``.
    """
    seen: set[bytes] = set()
    names: list[str] = []
    texts: list[str] = []
    hashes: list[bytes] = []
    columns: list[Metadata] = []
    size = 0
    for document in documents:
        name, text, metadata = document_parts(document)
        try:
            length, digest = _measured(name, text, seen)
        except ValueError as error:
            if on_error == "stop":
                raise
            skipped.append(str(error))
            continue
        if name not in left_out:
            names.append(name)
            texts.append(text)
            hashes.append(digest)
            columns.append(metadata)
        size += length
        if size >= block_bytes:
            if names:
                yield _group(names, texts, hashes, columns, settings)
            names, texts, hashes, columns, size = [], [], [], [], 0
    if names:
        yield _group(names, texts, hashes, columns, settings)


def _measured(name: str, text: str, seen: set[bytes]) -> tuple[int, bytes]:
    """Bytes of a text, and their SHA-256."""
    size, digest = 0, hashlib.sha256()
    try:
        for piece in utf8_pieces(text):
            digest.update(piece)
            size += len(piece)
        # 8 bytes of a hash each: a set of all names would need far more memory.
        known = hashlib.sha256(name.encode("utf-8")).digest()[:8]
    except UnicodeEncodeError as error:
        found = f"U+{ord(error.object[error.start]):04X} at character {error.start}"
        raise ValueError(f"document {name!r} has half a surrogate pair ({found}), which UTF-8 cannot hold.") from error
    if known in seen:
        raise ValueError(f"document names must differ, but {name!r} comes twice.")
    seen.add(known)
    return size, digest.digest()


def _group(
    names: list[str], texts: list[str], hashes: list[bytes], metadata: list[Metadata], settings: dict[str, Any]
) -> DocumentGroup:
    parts = [[name, digest.hex(), known] for name, digest, known in zip(names, hashes, metadata, strict=True)]
    return DocumentGroup(key_of(CHUNKS, settings, parts), names, texts, hashes, metadata)


def token_dtype(vocab_size: int) -> type[np.generic]:
    """The smallest type on disk that holds every id."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def padded(tokens: np.ndarray, lengths: np.ndarray) -> Rows:
    """Convert rows from disk to ids with `NO_TOKEN` after the end of each."""
    rows = tokens.astype(np.int64)
    rows[np.arange(rows.shape[1]) >= lengths[:, None]] = -1
    return rows


def split_tokens(tokens: Sequence[int] | np.ndarray, chunk_size: int) -> Rows:
    """Cut one sequence into rows of ``chunk_size``, the last one padded."""
    flat = np.asarray(tokens, dtype=np.int64)
    rows = np.full((-(-len(flat) // chunk_size), chunk_size), -1, dtype=np.int64)
    rows.reshape(-1)[: len(flat)] = flat
    return rows


def hash_rows(rows: Rows) -> UInt64[np.ndarray, "rows"]:
    """A 64-bit hash of the tokens of each row; different rows collide with probability 2**-63.

    A multilinear hash (Carter and Wegman 1979): the sum of ``token + 1`` times a random odd number per position.
    """
    multipliers = mix(np.arange(1, rows.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    # Column by column: the products of a whole block would take many times its memory.
    sums = np.zeros(len(rows), dtype=np.uint64)
    for place in range(rows.shape[1]):
        sums += (rows[:, place] + 1).astype(np.uint64) * multipliers[place]
    return mix(sums)


def mix(values: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
