"""The stages of a build, as tasks over blocks: each is a pure function of its job and writes a block to disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from retentive.retrieval.blocks.block import check_block, key_of, read_block, write_block
from retentive.retrieval.blocks.chunking import CHUNKS, DocumentGroup, chunk_group, padded
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.blocks.sealed_folder import folder_record
from retentive.retrieval.blocks.texts import forget_blocks, read_text
from retentive.retrieval.blocks.vectors import VECTORS, vector_key
from retentive.retrieval.encoders.protocol import VectorEncoder, WordCounts, WordEncoder, count_words
from retentive.retrieval.index.lexical_index import LEXICAL, write_segment
from retentive.retrieval.manifest import ChunkBlock, FolderRecord
from retentive.retrieval.passages import Passages
from retentive.retrieval.versions.runs import Run, word_runs
from retentive.text.tokenizer import Tokenizer, character_bytes


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
            checksum = write_block(self.folder, CHUNKS, group.key, chunk_group(group, self.tokenizer, self.chunk_size))
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
            arrays = read_block(self.folder, CHUNKS, block.key).arrays
            passages = Passages(padded(arrays["tokens"], arrays["lengths"]), self.tokenizer)
            vectors = np.ascontiguousarray(self.encoder.encode(passages), dtype=np.float32)
            if vectors.shape != (len(passages), self.encoder.dimension()) or not np.isfinite(vectors).all():
                found = f"shape {vectors.shape}" if np.isfinite(vectors).all() else "numbers that are not finite"
                message = f"the encoder must give {len(passages)} vectors of {self.encoder.dimension()} finite numbers"
                raise ValueError(f"{message}, but gave {found}.")
            checksum = write_block(self.folder, VECTORS, key, {"vectors": vectors})
            forget_blocks()
        return checksum, problem is not None


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
        keys = [block.key for block in job.blocks]
        key = key_of(LEXICAL, self.encoder.fingerprint(), keys, job.removed)
        record = folder_record(self.folder, LEXICAL, key, first_block=job.run[0], num_blocks=job.run[1])
        made = record is None
        if record is None:
            corpus = Corpus(self.folder, job.blocks, 1, job.removed)
            kept = corpus.live_ids(0, corpus.num_chunks)
            record = write_segment(self.folder, key, self._words(corpus, kept), kept, run=job.run)
        return replace(record, facts={"removed": list(job.removed)}), made

    def _words(self, corpus: Corpus, kept: Int64[np.ndarray, "_"]) -> Iterator[WordCounts]:
        for number, block in enumerate(corpus.blocks):
            words = block_words(self.folder, block.key, self.encoder)
            first, last = np.searchsorted(kept, corpus.first_chunks[number : number + 2])
            for row in (kept[first:last] - corpus.first_chunks[number]).tolist():
                yield words[row]


def block_words(folder: Path, key: str, encoder: WordEncoder) -> list[WordCounts]:
    """The words of every chunk of a block: those that begin in it, whole, though they may end in the next chunk."""
    arrays = read_block(folder, CHUNKS, key).arrays
    first_rows, begins = arrays["first_rows"].tolist(), arrays["begins"]
    found: list[WordCounts] = []
    first = 0
    for document, end in enumerate(arrays["text_ends"].tolist()):
        rows = range(first_rows[document], first_rows[document + 1])
        if len(rows):
            text = read_text(folder, CHUNKS, key, first, end).decode("utf-8")
            words = encoder.split(text)
            places = character_bytes(text)[np.array(words.begins, dtype=np.int64)]
            cuts = [0, *np.searchsorted(places, begins[rows.start + 1 : rows.stop]).tolist(), len(words)]
            found += [count_words(words.keys[begin:stop]) for begin, stop in pairwise(cuts)]
        first = end
    return found


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
