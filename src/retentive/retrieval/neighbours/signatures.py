"""MinHash signatures on disk: those of the chunks and documents of each block."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from retentive.files.growing_array import GrowingArray, made_folder
from retentive.retrieval.blocks.block import check_block, key_of, read_block, write_block
from retentive.retrieval.blocks.chunking import CHUNKS, padded
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.neighbours.near_duplicates import (
    GRAM,
    Bands,
    Signatures,
    chunk_bands,
    chunk_grams,
    document_bands,
    gram_hashes,
    minhash,
)

SIGNATURES = "signatures"
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class SignatureTask:
    """Signatures of the chunks and documents of a block.

    Attributes:
        folder: Folder of the store.
        threshold: Similarity that they are compared at.
    """

    folder: Path
    threshold: float

    def __call__(self, chunk_key: str) -> tuple[str, bool]:
        """Make one block unless an undamaged one exists; return its key and whether it was made."""
        key = signature_key(chunk_key, self.threshold)
        problem, _ = check_block(self.folder, SIGNATURES, key)
        if problem is not None:
            arrays = read_block(self.folder, CHUNKS, chunk_key).arrays
            chunks, documents = chunk_bands(self.threshold).values, document_bands(self.threshold).values
            parts = [_of_document(arrays, document, documents) for document in range(len(arrays["first_rows"]) - 1)]
            together = np.concatenate([np.zeros((0, documents), dtype=np.uint32), *parts])
            made = {"chunks": _of_chunks(arrays, chunks, self.folder), "documents": together}
            write_block(self.folder, SIGNATURES, key, made)
            read_block.cache_clear()
        return key, problem is not None


def signature_key(chunk_key: str, threshold: float) -> str:
    """Name of the signatures of a block of chunks."""
    return key_of(SIGNATURES, GRAM, chunk_bands(threshold).values, document_bands(threshold).values, chunk_key)


def chunk_signatures(corpus: Corpus, ids: Int64[np.ndarray, "rows"], threshold: float) -> Signatures:
    """Signatures of chunks, which `SignatureTask` made; ids must not be missing."""
    found = np.empty((len(ids), chunk_bands(threshold).values), dtype=np.uint32)
    for block, places, rows in corpus.by_block(ids):
        key = signature_key(corpus.blocks[block].key, threshold)
        found[places] = read_block(corpus.folder, SIGNATURES, key).arrays["chunks"][rows]
    return found


def document_signatures(corpus: Corpus, threshold: float) -> Signatures:
    """Signatures of all documents."""
    bands: Bands = document_bands(threshold)
    keys = [signature_key(block.key, threshold) for block in corpus.blocks]
    parts = [read_block(corpus.folder, SIGNATURES, key).arrays["documents"] for key in keys]
    return np.concatenate([np.zeros((0, bands.values), dtype=np.uint32), *parts])


def _of_chunks(arrays: Mapping[str, np.ndarray], values: int, folder: Path) -> GrowingArray:
    """Signatures of chunks, some at a time: their runs would take a hundred times the memory of the tokens."""
    found = GrowingArray(made_folder(folder / SIGNATURES), np.uint32, values)
    for begin in range(0, len(arrays["lengths"]), _ROWS_AT_ONCE):
        some = slice(begin, begin + _ROWS_AT_ONCE)
        found.append(minhash(chunk_grams(padded(arrays["tokens"][some], arrays["lengths"][some])), values))
    return found


def _of_document(arrays: Mapping[str, np.ndarray], document: int, values: int) -> Signatures:
    """The signature of a document: the least of those of its parts, which share the runs over their borders."""
    first, last = arrays["first_rows"][document : document + 2].tolist()
    found = minhash(np.zeros((1, 0), dtype=np.uint64), values)
    before = np.zeros(0, dtype=np.int64)
    for begin in range(first, last, _ROWS_AT_ONCE):
        some = slice(begin, min(begin + _ROWS_AT_ONCE, last))
        rows = padded(arrays["tokens"][some], arrays["lengths"][some])
        tokens = np.concatenate([before, rows[rows >= 0]])
        found = np.minimum(found, minhash(gram_hashes(tokens)[None], values))
        before = tokens[len(tokens) - GRAM + 1 :]
    return found
