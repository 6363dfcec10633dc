"""Filtering candidates for neighbours of training chunks: none may contain what the model is to predict."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from retentive.retrieval.blocks.chunking import mix
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.neighbours.near_duplicates import are_near

DocumentKeys = UInt64[np.ndarray, "_"]
"""A key of each document; documents with equal keys count as the same."""

_PLACES = 16
"""Slots for each member in the table that rules out most non-members."""


def sample_numbers(corpus: Corpus, ids: Int64[np.ndarray, "_"], sample_chunks: int | None) -> Int64[np.ndarray, "_"]:
    """The training sample of each chunk: its document, or a run of ``sample_chunks`` consecutive chunks."""
    return corpus.documents(ids) if sample_chunks is None else ids // sample_chunks


def members(samples: np.ndarray, keys: np.ndarray) -> UInt64[np.ndarray, "*shape"]:
    """A 64-bit hash of a sample and a value in it; different pairs collide with probability 2**-64."""
    return mix(keys.astype(np.uint64) ^ mix(samples.astype(np.uint64)))


def contained(values: np.ndarray, among: UInt64[np.ndarray, "_"]) -> Bool[np.ndarray, "*shape"]:
    """Whether each value is in a sorted list of numbers that are spread over all 64 bits."""
    found = np.zeros(values.size, dtype=np.bool_)
    if len(among) == 0:
        return found.reshape(values.shape)
    flat = values.reshape(-1)
    # A table of the first bits rules out nearly all values; only the others are searched for in the list.
    shift = np.uint64(64 - (_PLACES * len(among)).bit_length())
    table = np.zeros(1 << (64 - int(shift)), dtype=np.bool_)
    table[among >> shift] = True
    some = np.flatnonzero(table[flat >> shift])
    places = np.searchsorted(among, flat[some])
    found[some] = among[np.minimum(places, len(among) - 1)] == flat[some]
    return found.reshape(values.shape)


@dataclass(frozen=True)
class NeighbourFilter:
    """Decides whether candidates may be neighbours.

    Never allowed are: the chunk itself; any chunk of a document of its training sample (or of a copy of one), and so
    no continuation of such a document either, since a continuation is of its neighbour's document; a chunk that
    equals a chunk of the sample, or is continued by one; chunks of removed documents; on request, near duplicates.

    Attributes:
        database: The corpus of the candidates.
        database_keys: Keys of its documents, one array for each way in which documents can be the same.
        queries: The corpus of the chunks that need neighbours.
        query_ids: Ids of these chunks.
        samples: Training sample of each.
        sample_documents: Sorted `members` of the samples: the keys of all documents in them.
        sample_hashes: Sorted `members` of the samples: the hashes of all chunks in them.
        near: Jaccard similarity from which a chunk counts as the same; ``None`` compares exactly only.
    """

    database: Corpus
    database_keys: tuple[DocumentKeys, ...]
    queries: Corpus
    query_ids: Int64[np.ndarray, "queries"]
    samples: Int64[np.ndarray, "queries"]
    sample_documents: UInt64[np.ndarray, "_"]
    sample_hashes: UInt64[np.ndarray, "_"]
    near: float | None = None

    def __call__(
        self, rows: Int64[np.ndarray, "rows"], ids: Int64[np.ndarray, "rows candidates"]
    ) -> Bool[np.ndarray, "rows candidates"]:
        """Whether each candidate of the queries is allowed."""
        samples = self.samples[rows][:, None]
        documents, hashes, following = self.database.describe(ids)
        allowed = ids >= 0
        if self.database is self.queries:
            allowed &= ids != self.query_ids[rows][:, None]
        for keys in self.database_keys:
            known = keys[np.maximum(documents, 0)] if len(keys) else np.zeros(ids.shape, dtype=np.uint64)
            allowed &= ~contained(members(samples, known), self.sample_documents)
        allowed &= ~contained(members(samples, hashes), self.sample_hashes)
        allowed &= ~(contained(members(samples, following), self.sample_hashes) & (following != 0))
        if len(self.database.removed):
            allowed &= ~np.isin(documents, self.database.removed)
        if self.near is not None:
            allowed &= ~self._near(rows, ids, allowed, self.near)
        return allowed

    def _near(
        self,
        rows: Int64[np.ndarray, "rows"],
        ids: Int64[np.ndarray, "rows candidates"],
        open_places: Bool[np.ndarray, "rows candidates"],
        threshold: float,
    ) -> Bool[np.ndarray, "rows candidates"]:
        """Whether a candidate or its continuation is similar to the chunk or to the chunk after it."""
        line, place = np.nonzero(open_places)
        chunks, candidates = self.query_ids[rows[line]], ids[line, place]
        targets, following = self.queries.continuations(chunks), self.database.continuations(candidates)
        near = np.zeros(len(line), dtype=np.bool_)
        for left, right in ((chunks, candidates), (targets, candidates), (targets, following)):
            near |= are_near(self.queries, left, self.database, right, threshold)
        found = np.zeros(ids.shape, dtype=np.bool_)
        found[line, place] = near
        return found


def make_filter(
    queries: Corpus,
    query_keys: tuple[DocumentKeys, ...],
    database: Corpus,
    database_keys: tuple[DocumentKeys, ...],
    block: int,
    sample_chunks: int | None,
    near: float | None,
) -> NeighbourFilter:
    """The filter for all chunks of one block.

    Args:
        queries: The chunks that need neighbours.
        query_keys: Keys of their documents.
        database: The corpus of the candidates; may be the same object.
        database_keys: Keys of its documents, made in the same ways.
        block: Number of the block.
        sample_chunks: Chunks per training sample; ``None`` means that a sample has one document.
        near: See `NeighbourFilter`.
    """
    begin, end = int(queries.first_chunks[block]), int(queries.first_chunks[block + 1])
    ids = np.arange(begin, end)
    # A sample at the edge of the block has chunks of the blocks beside it.
    if sample_chunks is None:
        around = ids
    else:
        first, last = begin // sample_chunks, -(-end // sample_chunks)
        around = np.arange(first * sample_chunks, min(last * sample_chunks, queries.num_chunks))
    samples = sample_numbers(queries, around, sample_chunks)
    documents = queries.documents(around)
    inside = [np.unique(members(samples, keys[documents])) for keys in query_keys]
    return NeighbourFilter(
        database=database,
        database_keys=database_keys,
        queries=queries,
        query_ids=ids,
        samples=sample_numbers(queries, ids, sample_chunks),
        sample_documents=np.unique(np.concatenate(inside)) if inside else np.zeros(0, dtype=np.uint64),
        sample_hashes=np.unique(members(samples, queries.hashes(around))),
        near=near,
    )


def document_keys(corpus: Corpus) -> tuple[DocumentKeys, DocumentKeys]:
    """Two keys of every document: of its text, so that copies count as the same, and of its name."""
    texts: list[np.ndarray] = [np.zeros(0, dtype=np.uint64)]
    names: list[int] = []
    for block in range(len(corpus.blocks)):
        hashes = corpus.arrays(block)["text_hashes"]
        texts.append(np.ascontiguousarray(hashes[:, :8]).view("<u8").reshape(-1))
        names += [_name_key(name) for name in corpus.block_names(block)]
    return np.concatenate(texts), np.array(names, dtype=np.uint64)


def _name_key(name: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[8:16], "little")
