"""The text of a store: chunks by id, their documents and continuations. Memory-mapped and read-only."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt64

from retentive.retrieval.blocks.block import read_block
from retentive.retrieval.blocks.chunking import CHUNKS, padded
from retentive.retrieval.blocks.texts import lines_before, read_metadata, read_text, text_parts
from retentive.retrieval.manifest import ChunkBlock
from retentive.retrieval.passages import NO_TOKEN, Rows

MISSING = -1
"""The id of a missing chunk or document."""

Ids = Int64[np.ndarray, "*shape"]
"""Ids of chunks, `MISSING` where there is none."""


class Corpus:
    """Chunks ``0 ... num_chunks - 1`` of documents ``0 ... num_documents - 1``, in input order.

    Args:
        folder: Folder of the store.
        blocks: Its blocks of chunks, in order.
        chunk_size: Tokens per chunk.
        removed: Numbers of the removed documents.
    """

    def __init__(self, folder: Path, blocks: Sequence[ChunkBlock], chunk_size: int, removed: Sequence[int]) -> None:
        self.folder = folder
        self.blocks = tuple(blocks)
        self.chunk_size = chunk_size
        self.first_chunks = np.cumsum([0] + [block.rows for block in blocks], dtype=np.int64)
        self.first_documents = np.cumsum([0] + [block.documents for block in blocks], dtype=np.int64)
        self.removed = np.array(sorted(removed), dtype=np.int64)

    @property
    def num_chunks(self) -> int:
        """Number of chunks, those of removed documents included: ids are never reused."""
        return int(self.first_chunks[-1])

    @property
    def num_documents(self) -> int:
        """Number of documents, removed ones included."""
        return int(self.first_documents[-1])

    def arrays(self, block: int) -> dict[str, np.ndarray]:
        """The arrays of one block; see `retentive.retrieval.blocks.chunking.chunk_group`."""
        return dict(read_block(self.folder, CHUNKS, self.blocks[block].key).arrays)

    def tokens(self, ids: Ids) -> Int64[np.ndarray, "*shape chunk_size"]:
        """Tokens of chunks, `NO_TOKEN` after the end of a chunk and for `MISSING`.

        Raises:
            ValueError: If an id is not of this store.
        """
        flat = self._checked(ids)
        found = np.full((len(flat), self.chunk_size), NO_TOKEN, dtype=np.int64)
        for block, places, rows in self.by_block(flat):
            arrays = self.arrays(block)
            found[places] = padded(arrays["tokens"][rows], arrays["lengths"][rows])
        return found.reshape(*ids.shape, self.chunk_size)

    def block_tokens(self, block: int) -> Rows:
        """Tokens of all chunks of a block."""
        arrays = self.arrays(block)
        return padded(arrays["tokens"], arrays["lengths"])

    def continuations(self, ids: Ids) -> Ids:
        """The chunk that follows each chunk in its document, `MISSING` after the last."""
        flat = self._checked(ids)
        found = np.full(len(flat), MISSING, dtype=np.int64)
        for block, places, rows in self.by_block(flat):
            first_rows = self.arrays(block)["first_rows"]
            last = np.isin(rows + 1, first_rows)
            found[places] = np.where(last, MISSING, flat[places] + 1)
        return found.reshape(ids.shape)

    def with_continuations(self, ids: Ids) -> Int64[np.ndarray, "*shape length"]:
        """Chunk and continuation side by side, ``2 * chunk_size`` tokens."""
        return np.concatenate([self.tokens(ids), self.tokens(self.continuations(ids))], axis=-1)

    def documents(self, ids: Ids) -> Ids:
        """The document number of each chunk."""
        flat = self._checked(ids)
        found = np.full(len(flat), MISSING, dtype=np.int64)
        for block, places, rows in self.by_block(flat):
            first_rows = self.arrays(block)["first_rows"]
            found[places] = self.first_documents[block] + np.searchsorted(first_rows, rows, side="right") - 1
        return found.reshape(ids.shape)

    def hashes(self, ids: Ids) -> UInt64[np.ndarray, "*shape"]:
        """Hash of the tokens of each chunk; 0 for `MISSING`."""
        flat = self._checked(ids)
        found = np.zeros(len(flat), dtype=np.uint64)
        for block, places, rows in self.by_block(flat):
            found[places] = self.arrays(block)["hashes"][rows]
        return found.reshape(ids.shape)

    def describe(self, ids: Ids) -> tuple[Ids, UInt64[np.ndarray, "*shape"], UInt64[np.ndarray, "*shape"]]:
        """Document, hash, and hash of the continuation of each chunk, in one pass; -1 and 0 where there is none."""
        flat = self._checked(ids)
        documents = np.full(len(flat), MISSING, dtype=np.int64)
        hashes, following = np.zeros(len(flat), dtype=np.uint64), np.zeros(len(flat), dtype=np.uint64)
        for block, places, rows in self.by_block(flat):
            arrays = self.arrays(block)
            firsts, own = arrays["first_rows"], arrays["hashes"]
            local = np.searchsorted(firsts, rows, side="right") - 1
            documents[places] = self.first_documents[block] + local
            hashes[places] = own[rows]
            is_last = rows + 1 == firsts[local + 1]
            following[places] = np.where(is_last, np.uint64(0), own[np.minimum(rows + 1, len(own) - 1)])
        return documents.reshape(ids.shape), hashes.reshape(ids.shape), following.reshape(ids.shape)

    def is_removed(self, ids: Ids) -> Bool[np.ndarray, "*shape"]:
        """Whether each chunk belongs to a removed document; `MISSING` does not."""
        if len(self.removed) == 0:
            return np.zeros(ids.shape, dtype=np.bool_)
        return np.isin(self.documents(ids), self.removed)

    @cached_property
    def removed_chunks(self) -> Int64[np.ndarray, "_"]:
        """Ids of the chunks of removed documents, sorted."""
        spans = [self.chunks_of(int(document)) for document in self.removed]
        return np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(span.start, span.stop) for span in spans)])

    def live_ids(self, begin: int, end: int) -> Int64[np.ndarray, "_"]:
        """Ids of the chunks from ``begin`` to before ``end`` that were not removed."""
        first, last = np.searchsorted(self.removed_chunks, [begin, end])
        return np.delete(np.arange(begin, end), self.removed_chunks[first:last] - begin)

    def live_ranks(self, ids: Ids) -> Ids:
        """The id that each chunk would have in a store that never had the removed documents."""
        return ids - np.searchsorted(self.removed_chunks, ids)

    def chunks_of(self, document: int) -> range:
        """Ids of the chunks of a document."""
        block, local = self._place(document)
        first_rows = self.arrays(block)["first_rows"] + self.first_chunks[block]
        return range(int(first_rows[local]), int(first_rows[local + 1]))

    def spans(self, ids: Ids) -> tuple[Ids, Ids]:
        """The bytes of its document at which each chunk begins and ends; both -1 for `MISSING`.

        A chunk ends where the next one begins, the last one with its document.
        """
        flat = self._checked(ids)
        begins, ends = np.full(len(flat), -1, dtype=np.int64), np.full(len(flat), -1, dtype=np.int64)
        for block, places, rows in self.by_block(flat):
            arrays = self.arrays(block)
            starts, firsts, text_ends = arrays["begins"], arrays["first_rows"], arrays["text_ends"]
            local = np.searchsorted(firsts, rows, side="right") - 1
            sizes = text_ends[local] - np.where(local > 0, text_ends[local - 1], 0)
            is_last = rows + 1 == firsts[local + 1]
            begins[places] = starts[rows]
            ends[places] = np.where(is_last, sizes, starts[np.minimum(rows + 1, len(starts) - 1)])
        return begins.reshape(ids.shape), ends.reshape(ids.shape)

    def content(self, document: int, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes of the UTF-8 text of a document, those outside of it left out.

        Raises:
            DamagedFileError: If they are not what their checksum was taken of.
        """
        block, first, size = self._text_place(document)
        end = size if end is None else min(end, size)
        return read_text(self.folder, CHUNKS, self.blocks[block].key, first + max(begin, 0), first + end)

    def parts(self, document: int) -> Iterator[bytes]:
        """The UTF-8 text of a document in parts, which may end inside of a character."""
        block, first, size = self._text_place(document)
        return text_parts(self.folder, CHUNKS, self.blocks[block].key, first, first + size)

    def lines(self, document: int, first: int, count: int) -> tuple[str, int]:
        """Lines of a document from ``first`` on, which counts from 1, and how many all are; see `line`."""
        kept: list[bytes] = []
        number, last = 1, b"\n"
        for part in self.parts(document):
            begin = 0
            while begin < len(part):
                if number + part.count(b"\n", begin) < first or number >= first + count:
                    number += part.count(b"\n", begin)
                    break
                end = part.find(b"\n", begin) + 1
                if first <= number:
                    kept.append(part[begin : end or len(part)])
                number, begin = number + (end > 0), end or len(part)
            last = part[-1:]
        return b"".join(kept).decode("utf-8"), number - (last == b"\n")

    def text(self, document: int) -> str:
        """The text of a document."""
        return self.content(document).decode("utf-8")

    def text_bytes(self, document: int) -> int:
        """Bytes of the UTF-8 text of a document."""
        return self._text_place(document)[2]

    def line(self, document: int, place: int) -> int:
        """The line, from 1, in which a byte of a document stands; lines end at a line feed."""
        block, first, size = self._text_place(document)
        key = self.blocks[block].key
        before = lines_before(self.folder, CHUNKS, key, first)
        return lines_before(self.folder, CHUNKS, key, first + min(place, size)) - before + 1

    def metadata(self, document: int) -> dict[str, Any]:
        """The columns of a document."""
        block, local = self._place(document)
        return dict(self.block_metadata(block)[local])

    def block_metadata(self, block: int) -> tuple[dict[str, Any], ...]:
        """The columns of the documents of a block; not to be altered."""
        return read_metadata(self.folder, CHUNKS, self.blocks[block].key)

    def document_name(self, document: int) -> str:
        """The name of a document."""
        block, local = self._place(document)
        arrays = self.arrays(block)
        begin = int(arrays["name_ends"][local - 1]) if local else 0
        return arrays["names"][begin : int(arrays["name_ends"][local])].tobytes().decode("utf-8")

    def _place(self, document: int) -> tuple[int, int]:
        """The block of a document, and its number in the block."""
        if not 0 <= document < self.num_documents:
            raise ValueError(f"document must be from 0 to {self.num_documents - 1}, but is {document}.")
        block = int(np.searchsorted(self.first_documents, document, side="right")) - 1
        return block, document - int(self.first_documents[block])

    def _text_place(self, document: int) -> tuple[int, int, int]:
        """The block of a document, where its text begins in the row of all texts of the block, and its bytes."""
        block, local = self._place(document)
        ends = self.arrays(block)["text_ends"]
        first = int(ends[local - 1]) if local else 0
        return block, first, int(ends[local]) - first

    def block_names(self, block: int) -> list[str]:
        """Names of the documents of a block."""
        arrays = self.arrays(block)
        content, begin, names = arrays["names"].tobytes(), 0, list[str]()
        for end in arrays["name_ends"].tolist():
            names.append(content[begin:end].decode("utf-8"))
            begin = end
        return names

    def names(self) -> Iterator[tuple[int, str]]:
        """Number and name of every document that was not removed."""
        for block in range(len(self.blocks)):
            yield from self.live_names(block)

    def live_names(self, block: int) -> Iterator[tuple[int, str]]:
        """Number and name of the documents of a block that were not removed."""
        first, last = self.first_documents[block : block + 2].tolist()
        gone = set(self.removed[np.searchsorted(self.removed, first) : np.searchsorted(self.removed, last)].tolist())
        for number, name in enumerate(self.block_names(block), start=first):
            if number not in gone:
                yield number, name

    def document(self, number: int) -> tuple[str, str, dict[str, Any]]:
        """Name, text and metadata of a document."""
        return self.document_name(number), self.text(number), self.metadata(number)

    def _checked(self, ids: Int[np.ndarray, "*shape"]) -> Int64[np.ndarray, "_"]:
        flat = ids.reshape(-1).astype(np.int64)
        if len(flat) > 0 and not -1 <= flat.min() <= flat.max() < self.num_chunks:
            wrong = flat[(flat < -1) | (flat >= self.num_chunks)][0]
            raise ValueError(f"chunk ids must be from 0 to {self.num_chunks - 1} (or -1: missing), but one is {wrong}.")
        return flat

    def by_block(self, flat: Int64[np.ndarray, "_"]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Group ids by block: the block, positions in ``flat``, and rows within the block."""
        places = np.flatnonzero(flat >= 0)
        blocks = np.searchsorted(self.first_chunks, flat[places], side="right") - 1
        # The smallest type: numpy sorts two bytes in one pass.
        order = np.argsort(blocks.astype(np.min_scalar_type(len(self.blocks))), kind="stable")
        places, blocks = places[order], blocks[order]
        begins = np.flatnonzero(np.diff(blocks, prepend=-1))
        for begin, end in pairwise([*begins.tolist(), len(blocks)]):
            block = int(blocks[begin])
            chosen = places[begin:end]
            yield block, chosen, flat[chosen] - self.first_chunks[block]
