"""Filtering candidates for neighbours of training chunks: none may contain what the model is to predict."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from retentive.retrieval.blocks.chunking import mix
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.neighbours.near_chunks import Owners, SampleChunks

DocumentKeys = UInt64[np.ndarray, "_"]
"""A key of each document; documents with equal keys count as the same."""

_PLACES = 16
"""Slots for each member in the table that rules out most non-members."""


def sample_numbers(corpus: Corpus, ids: Int64[np.ndarray, "_"], sample_chunks: int | None) -> Int64[np.ndarray, "_"]:
    """The training sample of each chunk: its document, or a run of ``sample_chunks`` chunks, removed ones left out."""
    return corpus.documents(ids) if sample_chunks is None else corpus.live_ranks(ids) // sample_chunks


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
    equals a chunk of the sample, or is continued by one; chunks of removed documents. On request also, as in RETRO, a
    chunk that is similar to any chunk of the sample's documents, or is continued by one that is.

    Attributes:
        database: The corpus of the candidates.
        database_keys: Keys of its documents, one array for each way in which documents can be the same.
        queries: The corpus of the chunks that need neighbours.
        query_ids: Ids of these chunks.
        samples: Training sample of each.
        sample_documents: Sorted `members` of the samples: the keys of all documents in them.
        sample_hashes: Sorted `members` of the samples: the hashes of all chunks in them.
        near: The chunks that candidates must not be similar to; ``None`` compares exactly only.
        owners: Where the chunks of each query's sample stand in ``near``.
    """

    database: Corpus
    database_keys: tuple[DocumentKeys, ...]
    queries: Corpus
    query_ids: Int64[np.ndarray, "queries"]
    samples: Int64[np.ndarray, "queries"]
    sample_documents: UInt64[np.ndarray, "_"]
    sample_hashes: UInt64[np.ndarray, "_"]
    near: SampleChunks | None = None
    owners: Owners | None = None

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
            allowed &= ~self._near(rows, ids, allowed)
        return allowed

    def _near(
        self,
        rows: Int64[np.ndarray, "rows"],
        ids: Int64[np.ndarray, "rows candidates"],
        open_places: Bool[np.ndarray, "rows candidates"],
    ) -> Bool[np.ndarray, "rows candidates"]:
        """Whether a candidate or its continuation is similar to a chunk of the sample's documents."""
        assert self.near is not None
        assert self.owners is not None
        line, place = np.nonzero(open_places)
        candidates = ids[line, place]
        both = np.concatenate([candidates, self.database.continuations(candidates)])
        near = np.zeros(len(both), dtype=np.bool_)
        for slot in range(self.owners.shape[1]):
            owners = self.owners[rows[line], slot]
            near |= self.near.near(np.concatenate([owners, owners]), self.database, both)
        found = np.zeros(ids.shape, dtype=np.bool_)
        found[line, place] = near[: len(line)] | near[len(line) :]
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
    ids = queries.live_ids(int(queries.first_chunks[block]), int(queries.first_chunks[block + 1]))
    around = _around(queries, ids, sample_chunks)
    samples = sample_numbers(queries, around, sample_chunks)
    documents = queries.documents(around)
    inside = [np.unique(members(samples, keys[documents])) for keys in query_keys]
    own = sample_numbers(queries, ids, sample_chunks)
    similar = None if near is None else _sample_chunks(queries, documents, sample_chunks, near)
    return NeighbourFilter(
        database=database,
        database_keys=database_keys,
        queries=queries,
        query_ids=ids,
        samples=own,
        sample_documents=np.unique(np.concatenate(inside)) if inside else np.zeros(0, dtype=np.uint64),
        sample_hashes=np.unique(members(samples, queries.hashes(around))),
        near=similar,
        owners=None if near is None else _owners(samples, documents, own, sample_chunks),
    )


def _around(queries: Corpus, ids: Int64[np.ndarray, "_"], sample_chunks: int | None) -> Int64[np.ndarray, "_"]:
    """All chunks of the samples of some chunks: a sample at the edge of a block has chunks of the blocks beside it."""
    if sample_chunks is None or len(ids) == 0:
        return ids
    live = queries.live_ids(0, queries.num_chunks)
    first, last = np.searchsorted(live, ids[[0, -1]]) // sample_chunks
    return live[first * sample_chunks : (last + 1) * sample_chunks]


def _sample_chunks(
    queries: Corpus, documents: Int64[np.ndarray, "_"], sample_chunks: int | None, threshold: float
) -> SampleChunks:
    """All chunks of some documents, each under its sample or, where its document has several, under the document."""
    spans = [queries.chunks_of(document) for document in np.unique(documents).tolist()]
    chunks = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(span.start, span.stop) for span in spans)])
    sizes = np.array([len(span) for span in spans], dtype=np.int64)
    firsts = np.array([span.start for span in spans], dtype=np.int64)
    ends = sample_numbers(queries, np.stack([firsts, firsts + sizes - 1]).reshape(-1), sample_chunks).reshape(2, -1)
    whole = ends[0] == ends[1]
    owners = np.where(whole, _sample_owner(ends[0]), _document_owner(np.unique(documents)))
    return SampleChunks(queries, chunks, np.repeat(owners, sizes), threshold)


def _owners(
    samples: Int64[np.ndarray, "around"],
    documents: Int64[np.ndarray, "around"],
    own: Int64[np.ndarray, "queries"],
    sample_chunks: int | None,
) -> Owners:
    """The groups of each query's sample: itself, and the documents of its first and last chunk, which may reach on."""
    if sample_chunks is None:
        return _sample_owner(own)[:, None]
    first = documents[np.searchsorted(samples, own, side="left")]
    last = documents[np.searchsorted(samples, own, side="right") - 1]
    return np.stack([_sample_owner(own), _document_owner(first), _document_owner(last)], axis=1)


def _sample_owner(samples: Int64[np.ndarray, "_"]) -> UInt64[np.ndarray, "_"]:
    return 2 * samples.astype(np.uint64)


def _document_owner(documents: Int64[np.ndarray, "_"]) -> UInt64[np.ndarray, "_"]:
    return 2 * documents.astype(np.uint64) + np.uint64(1)


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
