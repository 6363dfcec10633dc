"""The stages of a build, as tasks over blocks: each is a pure function of its job and writes a block to disk."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Int64

from retentive.files.growing_array import GrowingArray, made_folder
from retentive.retrieval.blocks.block import check_block, key_of, read_block, write_block
from retentive.retrieval.blocks.chunk_rows import chunk_group
from retentive.retrieval.blocks.chunking import CHUNKS, DocumentGroup, padded
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.blocks.sealed_folder import folder_record
from retentive.retrieval.blocks.texts import forget_blocks, text_parts
from retentive.retrieval.blocks.vectors import VECTORS, vector_key
from retentive.retrieval.encoders.protocol import VectorEncoder, WordCounts, WordEncoder
from retentive.retrieval.encoders.word_pieces import words_in_pieces
from retentive.retrieval.index.lexical_index import LEXICAL, write_segment
from retentive.retrieval.manifest import ChunkBlock, FolderRecord
from retentive.retrieval.passages import Passages
from retentive.retrieval.versions.runs import Run, word_runs
from retentive.text.tokenizer import Tokenizer

_ROWS_AT_ONCE = 4096
"""Chunks that are encoded at once."""


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """Cuts documents into chunks.

    Attributes:
        folder: Folder of the store.
        tokenizer: Tokenizes the documents.
        chunk_size: Tokens per chunk.
    """

    folder: Path
    tokenizer: Tokenizer
    chunk_size: int

    def __call__(self, group: DocumentGroup) -> tuple[ChunkBlock, bool]:
        """Make one block unless an undamaged one exists; return it and whether it was made."""
        problem, checksum = check_block(self.folder, CHUNKS, group.key)
        if problem is not None:
            place = made_folder(self.folder / CHUNKS)
            arrays = chunk_group(group, self.tokenizer, self.chunk_size, place)
            checksum = write_block(self.folder, CHUNKS, group.key, arrays)
            forget_blocks()  # a damaged block of this name may be cached
        lengths = read_block(self.folder, CHUNKS, group.key).arrays["lengths"]
        made = ChunkBlock(
            key=group.key,
            rows=len(lengths),
            documents=len(group.names),
            tokens=int(lengths.sum(dtype=np.int64)),
            checksum=checksum,
        )
        return made, problem is not None


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """Encodes chunks as vectors.

    Attributes:
        folder: Folder of the store.
        tokenizer: The tokenizer of the chunks.
        encoder: The encoder.
        fingerprint: Its fingerprint.
    """

    folder: Path
    tokenizer: Tokenizer
    encoder: VectorEncoder
    fingerprint: str

    def __call__(self, block: ChunkBlock) -> tuple[str, bool]:
        """Make one block unless an undamaged one exists; return its checksum and whether it was made."""
        key = vector_key(self.fingerprint, block.key)
        problem, checksum = check_block(self.folder, VECTORS, key)
        if problem is not None:
            checksum = write_block(self.folder, VECTORS, key, {"vectors": self._vectors(block)})
            forget_blocks()
        return checksum, problem is not None

    def _vectors(self, block: ChunkBlock) -> GrowingArray:
        """The vectors of a block, encoded some chunks at a time."""
        arrays = read_block(self.folder, CHUNKS, block.key).arrays
        dimension = self.encoder.dimension()
        found = GrowingArray(made_folder(self.folder / VECTORS), np.float32, dimension)
        for begin in range(0, block.rows, _ROWS_AT_ONCE):
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            passages = Passages(padded(arrays["tokens"][rows], arrays["lengths"][rows]), self.tokenizer)
            vectors = np.ascontiguousarray(self.encoder.encode(passages), dtype=np.float32)
            if vectors.shape != (len(passages), dimension) or not np.isfinite(vectors).all():
                given = f"shape {vectors.shape}" if np.isfinite(vectors).all() else "numbers that are not finite"
                message = f"the encoder must give {len(passages)} vectors of {dimension} finite numbers"
                raise ValueError(f"{message}, but gave {given}.")
            found.append(vectors)
        return found


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """A run of blocks for one lexical segment.

    Attributes:
        run: Number of its first block in the store, and how many blocks it has.
        blocks: The blocks.
        removed: Documents that are left out, numbered from the first of the run.
    """

    run: Run
    blocks: tuple[ChunkBlock, ...]
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """Builds a lexical segment of chunks.

    Attributes:
        folder: Folder of the store.
        encoder: Splits texts into words.
    """

    folder: Path
    encoder: WordEncoder

    def __call__(self, job: SegmentJob) -> tuple[FolderRecord, bool]:
        """Make one segment unless an undamaged one exists; return its record and whether it was made."""
        key = segment_key(self.encoder, job.blocks, job.removed)
        record = folder_record(self.folder, LEXICAL, key, first_block=job.run[0], num_blocks=job.run[1])
        made = record is None
        if record is None:
            corpus = Corpus(self.folder, job.blocks, 1, job.removed)
            kept = corpus.live_ids(0, corpus.num_chunks)
            record = write_segment(self.folder, key, self._words(corpus, kept), kept, run=job.run)
        return replace(record, facts={"removed": list(job.removed)}), made

    def _words(self, corpus: Corpus, kept: Int64[np.ndarray, "_"]) -> Iterator[WordCounts]:
        for number, block in enumerate(corpus.blocks):
            first, last = np.searchsorted(kept, corpus.first_chunks[number : number + 2])
            wanted = set((kept[first:last] - corpus.first_chunks[number]).tolist())
            if not wanted:
                continue
            for row, words in enumerate(block_words(self.folder, block.key, self.encoder)):
                if row in wanted:
                    yield words


def segment_key(encoder: WordEncoder, blocks: Sequence[ChunkBlock], removed: Sequence[int]) -> str:
    """Name of a lexical segment, which follows from all that decides its bytes: the rules of words among it."""
    return key_of(LEXICAL, encoder.fingerprint(), [block.key for block in blocks], list(removed))


def has_words_of(record: FolderRecord, blocks: Sequence[ChunkBlock], encoder: WordEncoder) -> bool:
    """Whether a segment of a version with these blocks was made by this encoder, and not by other rules of words."""
    own = blocks[record.first_block : record.first_block + record.num_blocks]
    return record.key == segment_key(encoder, own, record.facts["removed"])


def block_words(folder: Path, key: str, encoder: WordEncoder) -> Iterator[WordCounts]:
    """The words of every chunk of a block: those that begin in it, whole, though they may end in the next chunk."""
    arrays = read_block(folder, CHUNKS, key).arrays
    first_rows, begins = arrays["first_rows"].tolist(), arrays["begins"]
    first = 0
    for document, end in enumerate(arrays["text_ends"].tolist()):
        own = begins[first_rows[document] : first_rows[document + 1]]
        if len(own):
            yield from _document_words(text_parts(folder, CHUNKS, key, first, end), own, encoder)
        first = end


def _document_words(content: Iterator[bytes], begins: np.ndarray, encoder: WordEncoder) -> Iterator[WordCounts]:
    """The words of every chunk of a document, by the byte at which each chunk begins."""
    row, counted = 0, Counter[str]()
    for keys, places in words_in_pieces(content, encoder.split):
        last = int(np.searchsorted(begins, places[-1], side="right")) - 1
        done = 0
        for cut in np.searchsorted(places, begins[row + 1 : last + 1]).tolist():
            counted.update(keys[done:cut])
            yield dict(counted)
            row, done, counted = row + 1, cut, Counter()
        counted.update(keys[done:])
    yield dict(counted)
    yield from ({} for _ in range(row + 1, len(begins)))


class BlockWords(Sequence[WordCounts]):
    """The words of every chunk of a block, read as they are asked for: fast in ascending order.

    Args:
        folder: Folder of the store.
        block: The block.
        encoder: Splits texts into words.
    """

    def __init__(self, folder: Path, block: ChunkBlock, encoder: WordEncoder) -> None:
        self._folder, self._block, self._encoder = folder, block, encoder
        self._next, self._words = 0, iter(list[WordCounts]())
        self._last: WordCounts = {}

    def __len__(self) -> int:
        """Number of chunks."""
        return self._block.rows

    @overload
    def __getitem__(self, row: int) -> WordCounts: ...
    @overload
    def __getitem__(self, row: slice) -> list[WordCounts]: ...
    def __getitem__(self, row: int | slice) -> WordCounts | list[WordCounts]:
        """The words of one chunk."""
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(f"the block has {len(self)} chunks, and so no chunk {row}")
        if row == self._next - 1:
            return self._last
        if row < self._next or self._next == 0:
            self._next, self._words = 0, block_words(self._folder, self._block.key, self._encoder)
        while self._next <= row:
            self._next, self._last = self._next + 1, next(self._words)
        return self._last


def segment_jobs(blocks: Sequence[ChunkBlock], removed: Sequence[int]) -> list[SegmentJob]:
    """The segments of a store: one for each run of blocks, without the removed documents (by number)."""
    firsts = np.cumsum([0] + [block.documents for block in blocks], dtype=np.int64)
    gone = np.array(sorted(removed), dtype=np.int64)
    jobs: list[SegmentJob] = []
    for first, count in word_runs(blocks):
        begin, end = np.searchsorted(gone, firsts[[first, first + count]])
        missing = tuple((gone[begin:end] - firsts[first]).tolist())
        jobs.append(SegmentJob((first, count), tuple(blocks[first : first + count]), missing))
    return jobs
