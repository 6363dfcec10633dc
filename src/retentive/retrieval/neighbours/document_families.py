"""Families of similar documents: a document must not be given neighbours from its own family."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Int64, UInt64

from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.neighbours.near_duplicates import Signatures, document_bands, gram_hashes, set_jaccard
from retentive.retrieval.neighbours.signatures import document_signatures

_PAIRS_AT_ONCE = 1 << 14

Pairs = Int64[np.ndarray, "pairs both"]
"""Numbers of two documents, the smaller first."""


def document_families(
    corpora: list[Corpus], keys: list[UInt64[np.ndarray, "_"]], threshold: float
) -> list[UInt64[np.ndarray, "_"]]:
    """Give similar documents the same key, over all corpora together; removed documents join no others.

    Args:
        corpora: The corpora; their signatures must exist.
        keys: A key of each document; documents with equal keys are one family from the start.
        threshold: Jaccard similarity from which two documents are similar.
    """
    merged = np.concatenate(keys)
    firsts = np.cumsum([0, *(corpus.num_documents for corpus in corpora)])
    gone = [corpus.removed + first for corpus, first in zip(corpora, firsts, strict=False)]
    live = np.setdiff1d(np.arange(len(merged)), np.concatenate([np.zeros(0, dtype=np.int64), *gone]))
    unique, firsts_of_keys, family_of = np.unique(merged[live], return_index=True, return_inverse=True)
    signatures = np.concatenate([document_signatures(corpus, threshold) for corpus in corpora])[live[firsts_of_keys]]
    parents = np.arange(len(unique))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = int(parents[number])
        return number

    @lru_cache(maxsize=16)
    def grams(number: int) -> UInt64[np.ndarray, "_"]:
        return _document_grams(corpora, firsts, int(live[firsts_of_keys[number]]))

    for left, right in similar_candidates(signatures, threshold).tolist():
        if root(left) != root(right) and set_jaccard(grams(left), grams(right)) >= threshold:
            parents[root(right)] = root(left)
    families = merged.copy()
    roots = np.array([root(number) for number in range(len(unique))], dtype=np.int64)
    families[live] = unique[roots[family_of.reshape(-1)]]
    return [families[begin:end] for begin, end in pairwise(firsts.tolist())]


def similar_candidates(signatures: Signatures, threshold: float) -> Pairs:
    """Pairs of rows that agree in a band of their signatures and in as many values as similar ones do, sorted."""
    bands = document_bands(threshold)
    filled = np.flatnonzero((signatures != 0xFFFFFFFF).any(axis=1))
    hashes = bands.hashes(signatures[filled])
    found: list[np.ndarray] = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(bands.count):
        order = np.argsort(hashes[:, band], kind="stable")
        ordered = hashes[order, band]
        edges = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), len(order)]
        for first, last in pairwise(edges):
            for pairs in _pairs(np.sort(filled[order[first:last]])):
                near = bands.may_be_near(signatures[pairs[:, 0]], signatures[pairs[:, 1]])
                found.append(pairs[near])
    return np.unique(np.concatenate(found), axis=0)


def _pairs(numbers: Int64[np.ndarray, "_"]) -> Iterator[Pairs]:
    """All pairs of some numbers, some thousand at a time."""
    count = len(numbers)
    step = max(1, _PAIRS_AT_ONCE // max(count, 1))
    for begin in range(0, count - 1, step):
        left, right = np.nonzero(np.arange(begin, min(begin + step, count))[:, None] < np.arange(count)[None])
        yield np.stack([numbers[left + begin], numbers[right]], axis=1)


def _document_grams(corpora: list[Corpus], firsts: np.ndarray, number: int) -> UInt64[np.ndarray, "_"]:
    which = int(np.searchsorted(firsts, number, side="right")) - 1
    chunks = corpora[which].chunks_of(number - int(firsts[which]))
    rows = corpora[which].tokens(np.arange(chunks.start, chunks.stop))
    return np.unique(gram_hashes(rows[rows >= 0]))
