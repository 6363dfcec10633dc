"""Making the arrays of a block of chunks, a piece of a text at a time."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from retentive.files.growing_array import GrowingArray
from retentive.retrieval.blocks.chunking import DocumentGroup, hash_rows, padded, token_dtype
from retentive.retrieval.blocks.texts import pack_texts
from retentive.text.pieces import PIECE
from retentive.text.tokenizer import Begins, TokenIds, Tokenizer, encode_pieces, encode_with_begins

Pieces = Iterator[tuple[TokenIds, Begins]]


def chunk_group(
    group: DocumentGroup, tokenizer: Tokenizer, chunk_size: int, place: Path
) -> dict[str, np.ndarray | GrowingArray]:
    """Cut the documents of a group into chunks.

    Args:
        group: The documents.
        tokenizer: Tokenizes them.
        chunk_size: Tokens per chunk.
        place: Folder for temporary files: what is longer than a few megabytes is not held in memory.

    Returns:
        ``tokens (rows, chunk_size)`` with 0 after the end of a chunk, ``lengths (rows,)``, ``hashes (rows,)`` from
        `hash_rows`, ``begins (rows,)``, the byte of its document at which each chunk begins (a chunk ends where the
        next one begins, the last one with its document), ``first_rows (documents + 1,)``, ``names`` (their bytes, one
        after the other) with ``name_ends``, ``text_hashes (documents, 32)``, and what `pack_texts` makes.

    Raises:
        ValueError: If a document has the end-of-text id in it; the message names it.
    """
    rows = _Rows(tokenizer, chunk_size, place)
    for name, pieces in zip(group.names, _encoded(tokenizer, group.texts), strict=True):
        for ids, begins in pieces:
            if (np.asarray(ids) == tokenizer.end_of_text).any():
                message = f"document {name!r} has text that the tokenizer turns into its end-of-text id "
                cure = f"{tokenizer.end_of_text}: remove it from the text, or use another tokenizer."
                raise ValueError(message + cure)
            rows.add(ids, begins)
        rows.end_document()
    encoded_names = [name.encode("utf-8") for name in group.names]
    return {
        **rows.arrays(),
        "names": np.frombuffer(b"".join(encoded_names), dtype=np.uint8),
        "name_ends": np.cumsum([len(name) for name in encoded_names], dtype=np.int64),
        "text_hashes": np.frombuffer(b"".join(group.hashes), dtype=np.uint8).reshape(-1, 32),
        **pack_texts(group.texts, group.metadata, place),
    }


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> Iterator[Pieces]:
    """The pieces of each text; short texts are tokenized together."""
    for is_long, some in groupby(texts, key=lambda text: len(text) > PIECE):
        if is_long:
            yield from (encode_pieces(tokenizer, text) for text in some)
            continue
        batch, size = list[str](), 0
        for text in some:
            batch.append(text)
            size += len(text)
            if size > PIECE:
                yield from (iter([one]) for one in encode_with_begins(tokenizer, batch))
                batch, size = [], 0
        yield from (iter([one]) for one in encode_with_begins(tokenizer, batch))


class _Rows:
    """The chunks of documents, one after the other."""

    def __init__(self, tokenizer: Tokenizer, chunk_size: int, place: Path) -> None:
        self._chunk_size = chunk_size
        self._tokens = GrowingArray(place, token_dtype(tokenizer.vocab_size), chunk_size)
        self._lengths = GrowingArray(place, np.uint16)
        self._hashes = GrowingArray(place, np.uint64)
        self._begins = GrowingArray(place, np.int64)
        self._last_begin = 0
        self._first_rows = [0]
        self._count = 0
        self._ids, self._places = np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.int64)

    def add(self, ids: TokenIds, begins: Begins) -> None:
        """Append tokens of the present document; those that fill no chunk wait for others."""
        self._ids = np.concatenate([self._ids, ids])
        self._places = np.concatenate([self._places, begins])
        whole = len(self._ids) - len(self._ids) % self._chunk_size
        self._write(self._ids[:whole].reshape(-1, self._chunk_size), self._places[:whole], self._chunk_size)
        self._ids, self._places = self._ids[whole:], self._places[whole:]

    def end_document(self) -> None:
        """Write what waits as the last chunk of the document."""
        if length := len(self._ids):
            row = np.zeros((1, self._chunk_size), dtype=np.uint32)
            row[0, :length] = self._ids
            self._write(row, self._places[:1], length)
        self._ids, self._places = self._ids[:0], self._places[:0]
        self._first_rows.append(self._count)

    def _write(self, rows: np.ndarray, places: Begins, length: int) -> None:
        if not len(rows):
            return
        lengths = np.full(len(rows), length, dtype=np.uint16)
        begins = places[:: self._chunk_size].copy()
        if self._count == self._first_rows[-1]:  # the first chunk begins with its document, though its token may not
            begins[0] = 0
        self._tokens.append(rows)
        self._lengths.append(lengths)
        self._hashes.append(hash_rows(padded(rows, lengths)))
        self._begins.append(begins)
        self._last_begin = max(self._last_begin, int(begins[-1]))
        self._count += len(rows)

    def arrays(self) -> dict[str, np.ndarray | GrowingArray]:
        """The arrays of all chunks."""
        return {
            "tokens": self._tokens,
            "lengths": self._lengths,
            "hashes": self._hashes,
            "begins": self._begins.narrowed(np.uint32) if self._last_begin < 1 << 32 else self._begins,
            "first_rows": np.array(self._first_rows, dtype=np.int64),
        }
