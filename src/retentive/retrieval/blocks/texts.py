"""The text of a block's documents: compressed in pages, so that an answer reads a page or two and not the block.

The UTF-8 of all documents of a block stands in one row, one after the other. Every `PAGE_BYTES` of it are a zstd frame
with a checksum of its own, so a damaged byte is found by whoever reads it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from retentive.extras import require
from retentive.files import canonical_json
from retentive.files.growing_array import GrowingArray
from retentive.retrieval.blocks.block import block_path, damaged, read_block
from retentive.text.pieces import utf8_pieces

PAGE_BYTES = 1 << 17
"""Bytes of text of a page: longer ones are smaller on disk, shorter ones are read faster."""

_PART_BYTES = 1 << 20
"""Bytes of a long text that are read at once."""

_LEVEL = 3
_LINE_END = ord("\n")

Metadata = Mapping[str, str | int | float | bool | None]
"""What is known of a document besides its text, by name of the column."""


def pack_texts(texts: Sequence[str], metadata: Sequence[Metadata], place: Path) -> dict[str, np.ndarray | GrowingArray]:
    """Compress the documents of a block.

    Args:
        texts: The text of each document.
        metadata: Columns of each document.
        place: Folder for temporary files.

    Returns:
        ``pages`` (zstd frames, one after the other) with ``page_ends``; ``page_lines``, the line ends before each
        page; ``text_ends``, where each document ends in the row of all; ``metadata``, a zstd frame of a JSON list.
    """
    frames, ends, lines = GrowingArray(place, np.uint8), list[int](), [0]
    text_ends: list[int] = []

    def pack(page: bytes) -> None:
        frame = _compress(page)
        frames.append(np.frombuffer(frame, dtype=np.uint8))
        ends.append((ends[-1] if ends else 0) + len(frame))
        lines.append(lines[-1] + page.count(b"\n"))

    row, size = bytearray(), 0
    for text in texts:
        for piece in utf8_pieces(text):
            row += piece
            size += len(piece)
            whole = len(row) - len(row) % PAGE_BYTES
            for begin in range(0, whole, PAGE_BYTES):
                pack(bytes(row[begin : begin + PAGE_BYTES]))
            del row[:whole]
        text_ends.append(size)
    if row:
        pack(bytes(row))
    return {
        "pages": frames,
        "page_ends": np.array(ends, dtype=np.int64),
        "page_lines": np.array(lines[:-1], dtype=np.int64),
        "text_ends": np.array(text_ends, dtype=np.int64),
        "metadata": np.frombuffer(_compress(canonical_json(list(metadata)).encode()), dtype=np.uint8),
    }


def read_text(folder: Path, kind: str, key: str, begin: int, end: int) -> bytes:
    """Bytes ``begin`` to ``end`` of the row of all texts of a block.

    Raises:
        DamagedFileError: If the pages do not hold what they were made of.
    """
    if begin >= end:
        return b""
    first, last = begin // PAGE_BYTES, (end - 1) // PAGE_BYTES
    found = b"".join(read_page(folder, kind, key, page) for page in range(first, last + 1))
    return found[begin - first * PAGE_BYTES : end - first * PAGE_BYTES]


def text_parts(folder: Path, kind: str, key: str, begin: int, end: int) -> Iterator[bytes]:
    """The same bytes as `read_text`, in parts."""
    for first in range(begin, end, _PART_BYTES):
        yield read_text(folder, kind, key, first, min(first + _PART_BYTES, end))


def lines_before(folder: Path, kind: str, key: str, place: int) -> int:
    """Line ends before a place in the row of all texts of a block."""
    arrays = read_block(folder, kind, key).arrays
    page = place // PAGE_BYTES
    if page >= len(arrays["page_lines"]):  # the end of a row that fills its last page
        page = len(arrays["page_lines"]) - 1
    if page < 0:
        return 0
    inside = np.searchsorted(line_ends_of(folder, kind, key, page), place - page * PAGE_BYTES)
    return int(arrays["page_lines"][page]) + int(inside)


@lru_cache(maxsize=64)
def line_ends_of(folder: Path, kind: str, key: str, page: int) -> np.ndarray:
    """Where the lines of a page end, ascending."""
    content = np.frombuffer(read_page(folder, kind, key, page), dtype=np.uint8)
    return np.flatnonzero(content == _LINE_END).astype(np.int32)


@lru_cache(maxsize=64)
def read_page(folder: Path, kind: str, key: str, page: int) -> bytes:
    """The text of one page.

    Raises:
        DamagedFileError: If the page does not hold what it was made of.
    """
    arrays = read_block(folder, kind, key).arrays
    ends = arrays["page_ends"]
    begin = int(ends[page - 1]) if page else 0
    return _decompress(arrays["pages"][begin : int(ends[page])].tobytes(), block_path(folder, kind, key))


@lru_cache(maxsize=256)
def read_metadata(folder: Path, kind: str, key: str) -> tuple[dict[str, Any], ...]:
    """The columns of each document of a block.

    Raises:
        DamagedFileError: If they are not what they were made of.
    """
    frame = read_block(folder, kind, key).arrays["metadata"].tobytes()
    return tuple(json.loads(_decompress(frame, block_path(folder, kind, key))))


def forget_blocks() -> None:
    """Forget what was read of blocks, so that it is read and checked again: one may be another by now."""
    for cached in (read_block, read_page, line_ends_of, read_metadata):
        cached.cache_clear()


def _compress(content: bytes) -> bytes:
    require("zstandard", "a datastore")
    import zstandard

    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(content)


def _decompress(frame: bytes, path: Path) -> bytes:
    require("zstandard", "a datastore")
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise damaged(path, f"has text that is not what its checksum was taken of ({error})") from error
