"""Cutting documents into chunks of a fixed number of tokens; every document starts a new chunk.

Consecutive documents form groups of about ``block_bytes`` of text, and each group becomes one block. A block is thus a
pure function of its own documents, and which documents share a block depends only on their order and lengths. A
document is never split over two blocks.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt64

from retentive.retrieval.blocks.block import key_of
from retentive.retrieval.passages import Rows
from retentive.text.tokenizer import Tokenizer, encode_batch

CHUNKS = "chunks"
MAX_CHUNK_SIZE = 65535


@runtime_checkable
class NamedText(Protocol):
    """A document: a unique name, for example a path, and its text."""

    @property
    def name(self) -> str:
        """The unique name."""
        ...

    @property
    def text(self) -> str:
        """The text."""
        ...


Document = NamedText | tuple[str, str]
"""An input document; a tuple is ``(name, text)``."""


@dataclass(frozen=True, slots=True)
class DocumentGroup:
    """The documents of one block.

    Attributes:
        key: Name of the block, from the chunking and from names and texts.
        names: Names of the documents.
        texts: Their texts.
        hashes: SHA-256 of each text.
    """

    key: str
    names: list[str]
    texts: list[str]
    hashes: list[bytes]


def name_and_text(document: object) -> tuple[str, str]:
    """Name and text of a document.

    Raises:
        TypeError: If it is neither a pair of strings nor has ``name`` and ``text``.
    """
    if isinstance(document, tuple):
        pair: tuple[Any, ...] = document
    elif isinstance(document, NamedText):
        pair = (document.name, document.text)
    else:
        pair = ()
    if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise TypeError(f"documents must be (name, text) pairs of strings, but one is a {type(document).__name__}.")
    return cast("tuple[str, str]", pair)


def group_documents(
    documents: Iterable[Document], settings: dict[str, Any], block_bytes: int, on_error: str, skipped: list[str]
) -> Iterator[DocumentGroup]:
    """Group consecutive documents until their text fills a block.

    Args:
        documents: Read once, one group in memory at a time.
        settings: Settings of the chunking; part of every key.
        block_bytes: Bytes of UTF-8 that close a group.
        on_error: ``stop`` or ``skip``, for a document that is not encodable as UTF-8 or repeats a name.
        skipped: A line is appended for each document that is left out.

    Raises:
        ValueError: For such a document, with its name, if ``on_error`` is ``stop``.
    """
    seen: set[bytes] = set()
    names: list[str] = []
    texts: list[str] = []
    hashes: list[bytes] = []
    size = 0
    for document in documents:
        name, text = name_and_text(document)
        try:
            content = _content(name, text, seen)
        except ValueError as error:
            if on_error == "stop":
                raise
            skipped.append(str(error))
            continue
        names.append(name)
        texts.append(text)
        hashes.append(hashlib.sha256(content).digest())
        size += len(content)
        if size >= block_bytes:
            yield _group(names, texts, hashes, settings)
            names, texts, hashes, size = [], [], [], 0
    if names:
        yield _group(names, texts, hashes, settings)


def _content(name: str, text: str, seen: set[bytes]) -> bytes:
    try:
        content = text.encode("utf-8")
        # 8 bytes of a hash each: a set of all names would need far more memory.
        digest = hashlib.sha256(name.encode("utf-8")).digest()[:8]
    except UnicodeEncodeError as error:
        found = f"U+{ord(error.object[error.start]):04X} at character {error.start}"
        raise ValueError(f"document {name!r} has half a surrogate pair ({found}), which UTF-8 cannot hold.") from error
    if digest in seen:
        raise ValueError(f"document names must differ, but {name!r} comes twice.")
    seen.add(digest)
    return content


def _group(names: list[str], texts: list[str], hashes: list[bytes], settings: dict[str, Any]) -> DocumentGroup:
    parts = [[name, digest.hex()] for name, digest in zip(names, hashes, strict=True)]
    return DocumentGroup(key_of(CHUNKS, settings, parts), names, texts, hashes)


def chunk_group(group: DocumentGroup, tokenizer: Tokenizer, chunk_size: int) -> dict[str, np.ndarray]:
    """Cut the documents of a group into chunks.

    Returns:
        ``tokens (rows, chunk_size)`` with 0 after the end of a chunk, ``lengths (rows,)``, ``hashes (rows,)`` from
        `hash_rows`, ``first_rows (documents + 1,)``, ``names`` (their bytes, one after the other) with ``name_ends``,
        and ``text_hashes (documents, 32)``.

    Raises:
        ValueError: If a document has the end-of-text id in it; the message names it.
    """
    sequences = encode_batch(tokenizer, group.texts)
    counts = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    rows_of = -(-counts // chunk_size)
    first_rows = np.concatenate([[0], np.cumsum(rows_of)]).astype(np.int64)
    flat = np.zeros(int(first_rows[-1]) * chunk_size, dtype=token_dtype(tokenizer.vocab_size))
    lengths = np.full(int(first_rows[-1]), chunk_size, dtype=np.uint16)
    for index, sequence in enumerate(sequences):
        if (np.asarray(sequence) == tokenizer.end_of_text).any():
            message = f"document {group.names[index]!r} has text that the tokenizer turns into its end-of-text id "
            raise ValueError(message + f"{tokenizer.end_of_text}: remove it from the text, or use another tokenizer.")
        begin = int(first_rows[index]) * chunk_size
        flat[begin : begin + len(sequence)] = sequence
        if len(sequence) % chunk_size:
            lengths[first_rows[index + 1] - 1] = len(sequence) % chunk_size
    tokens = flat.reshape(-1, chunk_size)
    encoded_names = [name.encode("utf-8") for name in group.names]
    return {
        "tokens": tokens,
        "lengths": lengths,
        "hashes": hash_rows(padded(tokens, lengths)),
        "first_rows": first_rows,
        "names": np.frombuffer(b"".join(encoded_names), dtype=np.uint8),
        "name_ends": np.cumsum([len(name) for name in encoded_names], dtype=np.int64),
        "text_hashes": np.frombuffer(b"".join(group.hashes), dtype=np.uint8).reshape(-1, 32),
    }


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


def document_rows(first_rows: Int64[np.ndarray, "_"], count: int) -> Int64[np.ndarray, "rows"]:
    """The document, numbered within its block, of each row."""
    return np.searchsorted(first_rows, np.arange(count), side="right") - 1
