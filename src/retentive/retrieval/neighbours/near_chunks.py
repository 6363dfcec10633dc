"""Chunks that are similar to any chunk of a training sample's documents."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from retentive.retrieval.blocks.chunking import mix
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.neighbours.near_duplicates import chunk_bands, chunk_grams, jaccard
from retentive.retrieval.neighbours.signatures import chunk_signatures

_PAIRS_AT_ONCE = 4096

Owners = UInt64[np.ndarray, "queries slots"]
"""Groups of chunks that a query's sample has: its own, and those of documents that reach into other samples."""


@dataclass(frozen=True)
class SampleChunks:
    """The chunks of all documents of some training samples, for one question: is a candidate similar to one of them?

    A document that lies in one sample is entered under the sample, another under its own number, so that a long
    document is entered once however many samples it reaches into.

    Attributes:
        corpus: The corpus of the samples.
        chunks: Ids of their chunks.
        owners: The group of each chunk.
        threshold: Jaccard similarity from which two chunks are similar.
    """

    corpus: Corpus
    chunks: Int64[np.ndarray, "chunks"]
    owners: UInt64[np.ndarray, "chunks"]
    threshold: float

    @cached_property
    def _values(self) -> UInt64[np.ndarray, "chunks bands"]:
        return chunk_bands(self.threshold).hashes(chunk_signatures(self.corpus, self.chunks, self.threshold))

    def near(
        self, owners: UInt64[np.ndarray, "pairs"], others: Corpus, ids: Int64[np.ndarray, "pairs"]
    ) -> Bool[np.ndarray, "pairs"]:
        """Whether each id of another corpus is similar to a chunk of its group; a missing chunk is similar to none."""
        near = np.zeros(len(ids), dtype=np.bool_)
        there = np.flatnonzero(ids >= 0)
        if len(there) == 0 or len(self.chunks) == 0:
            return near
        items, item_of = np.unique(ids[there], return_inverse=True)
        values = chunk_bands(self.threshold).hashes(chunk_signatures(others, items, self.threshold))
        owner_of = owners[there]
        for band in range(values.shape[1]):
            known = np.isin(values[:, band], self._values[:, band], kind="sort")
            open_pairs = np.flatnonzero(known[item_of] & ~near[there])
            if len(open_pairs):
                asked = _entries(owner_of[open_pairs], values[item_of[open_pairs], band])
                near[there[open_pairs]] = self._near_in_band(band, asked, others, items[item_of[open_pairs]])
        return near

    def _near_in_band(
        self, band: int, asked: UInt64[np.ndarray, "pairs"], others: Corpus, ids: Int64[np.ndarray, "pairs"]
    ) -> Bool[np.ndarray, "pairs"]:
        """Compare each id with the chunks that have the asked entry, one after the other until one is similar."""
        entries = _entries(self.owners, self._values[:, band])
        order = np.argsort(entries, kind="stable")
        first = np.searchsorted(entries[order], asked, side="left")
        last = np.searchsorted(entries[order], asked, side="right")
        near = np.zeros(len(ids), dtype=np.bool_)
        while len(left := np.flatnonzero(~near & (first < last))):
            for begin in range(0, len(left), _PAIRS_AT_ONCE):
                some = left[begin : begin + _PAIRS_AT_ONCE]
                near[some] = self._are_near(self.chunks[order[first[some]]], others, ids[some])
            first += 1
        return near

    def _are_near(
        self, chunks: Int64[np.ndarray, "pairs"], others: Corpus, ids: Int64[np.ndarray, "pairs"]
    ) -> Bool[np.ndarray, "pairs"]:
        threshold = self.threshold
        signatures = [chunk_signatures(self.corpus, chunks, threshold), chunk_signatures(others, ids, threshold)]
        near = chunk_bands(threshold).may_be_near(signatures[0], signatures[1])
        some = np.flatnonzero(near)
        grams = [chunk_grams(self.corpus.tokens(chunks[some])), chunk_grams(others.tokens(ids[some]))]
        near[some] = jaccard(grams[0], grams[1]) >= threshold
        return near


def _entries(owners: UInt64[np.ndarray, "_"], values: UInt64[np.ndarray, "_"]) -> UInt64[np.ndarray, "_"]:
    """A hash of a group and the value of a band; different pairs collide with probability 2**-64."""
    return mix(mix(owners) ^ values)
