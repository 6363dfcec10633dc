"""Near duplicates: texts of which most runs of 13 tokens are the same (Lee et al. 2022, arXiv:2107.06499).

MinHash (Broder 1997) finds candidate pairs, which are then compared exactly, so its errors cost time and not answers.
Similar documents form a family: a document must not be given neighbours from its own family.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt32, UInt64

from retentive.retrieval.blocks.block import check_block, key_of, read_block, write_block
from retentive.retrieval.blocks.chunking import CHUNKS, hash_rows, mix, padded
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.passages import Rows

SIGNATURES = "signatures"
GRAM = 13
CHUNK_VALUES = 32
DOCUMENT_VALUES = 128
_BAND = 4
"""Values of a band of the signature: at similarity 0.8 a band agrees with 0.8 ** 4, one of all 32 with 0.9999999."""

_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)
# Four standard deviations of the estimates from 32 and from 128 values.
_SLACK = 0.3
_DOCUMENT_SLACK = 0.15
_PAIRS_AT_ONCE = 4096

Grams = UInt64[np.ndarray, "rows grams"]
"""Hashes of runs of tokens, the largest number where there is none."""


def gram_hashes(tokens: Int64[np.ndarray, "length"]) -> UInt64[np.ndarray, "grams"]:
    """A hash of every run of 13 tokens; a shorter text is one run."""
    if tokens.size == 0:
        return np.zeros(0, dtype=np.uint64)
    if tokens.size < GRAM:
        return hash_rows(tokens[None])
    return hash_rows(np.lib.stride_tricks.sliding_window_view(tokens, GRAM))


def chunk_grams(rows: Rows) -> Grams:
    """Hashes of the runs inside each chunk."""
    lengths = (rows >= 0).sum(axis=1)
    whole = hash_rows(rows)
    if rows.shape[1] <= GRAM:
        return whole[:, None]
    windows: np.ndarray = np.lib.stride_tricks.sliding_window_view(rows, GRAM, axis=1)
    grams: np.ndarray = hash_rows(windows.reshape(-1, GRAM)).reshape(windows.shape[:2])
    grams[np.arange(grams.shape[1]) + GRAM > lengths[:, None]] = _NONE
    grams[:, 0] = np.where(lengths < GRAM, whole, grams[:, 0])
    return grams


@lru_cache(maxsize=4)
def _permutations(values: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = mix(np.arange(2 * values, dtype=np.uint64))
    return numbers[:values] | np.uint64(1), numbers[values:]


def minhash(grams: Grams, values: int) -> UInt32[np.ndarray, "rows values"]:
    """MinHash signatures: two rows agree in a value with a probability equal to their Jaccard similarity."""
    factors, shifts = _permutations(values)
    found = np.full((len(grams), values), 0xFFFFFFFF, dtype=np.uint32)
    if grams.shape[1] == 0:
        return found
    absent = grams == _NONE
    for number in range(values):
        permuted = (grams * factors[number] + shifts[number]) >> np.uint64(32)
        permuted[absent] = 0xFFFFFFFF
        found[:, number] = permuted.min(axis=1)
    return found


def jaccard(left: Grams, right: Grams) -> Float64[np.ndarray, "rows"]:
    """Shared runs over all runs, row by row, each counted once."""
    left, right = _unique(left), _unique(right)
    both = np.sort(np.concatenate([left, right], axis=1), axis=1)
    shared = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] != _NONE)).sum(axis=1)
    total = (left != _NONE).sum(axis=1) + (right != _NONE).sum(axis=1) - shared
    return shared / np.maximum(total, 1)


def _unique(grams: Grams) -> Grams:
    grams = np.sort(grams, axis=1)
    grams[:, 1:][grams[:, 1:] == grams[:, :-1]] = _NONE
    return grams


@dataclass(frozen=True, slots=True)
class SignatureTask:
    """Signatures of the chunks and documents of a block.

    Attributes:
        folder: Folder of the store.
    """

    folder: Path

    def __call__(self, chunk_key: str) -> tuple[str, bool]:
        """Make one block unless an undamaged one exists; return its key and whether it was made."""
        key = signature_key(chunk_key)
        problem, _ = check_block(self.folder, SIGNATURES, key)
        if problem is not None:
            arrays = read_block(self.folder, CHUNKS, chunk_key).arrays
            rows = padded(arrays["tokens"], arrays["lengths"])
            documents = [minhash(gram_hashes(tokens)[None], DOCUMENT_VALUES) for tokens in _documents(rows, arrays)]
            together = np.concatenate(documents) if documents else np.zeros((0, DOCUMENT_VALUES), dtype=np.uint32)
            made = {"chunks": minhash(chunk_grams(rows), CHUNK_VALUES), "documents": together}
            write_block(self.folder, SIGNATURES, key, made)
            read_block.cache_clear()
        return key, problem is not None


def signature_key(chunk_key: str) -> str:
    """Name of the signatures of a block of chunks."""
    return key_of(SIGNATURES, GRAM, CHUNK_VALUES, DOCUMENT_VALUES, chunk_key)


def _documents(rows: Rows, arrays: Mapping[str, np.ndarray]) -> Iterator[Int64[np.ndarray, "length"]]:
    for document in range(len(arrays["first_rows"]) - 1):
        own = rows[arrays["first_rows"][document] : arrays["first_rows"][document + 1]]
        yield own[own >= 0]


def are_near(
    corpus: Corpus,
    left: Int64[np.ndarray, "pairs"],
    others: Corpus,
    right: Int64[np.ndarray, "pairs"],
    threshold: float,
) -> Bool[np.ndarray, "pairs"]:
    """Whether pairs of chunks are similar: by signature first, then exactly. A missing chunk is similar to none."""
    near = (left >= 0) & (right >= 0)
    estimate = np.zeros(len(left))
    some = np.flatnonzero(near)
    signatures = [_signatures(corpus, left[some]), _signatures(others, right[some])]
    estimate[some] = (signatures[0] == signatures[1]).mean(axis=1)
    near &= estimate >= max(threshold - _SLACK, 0.0)
    alike = np.flatnonzero(near)
    for begin in range(0, len(alike), _PAIRS_AT_ONCE):
        some = alike[begin : begin + _PAIRS_AT_ONCE]
        grams = [chunk_grams(corpus.tokens(left[some])), chunk_grams(others.tokens(right[some]))]
        near[some] = jaccard(*grams) >= threshold
    return near


def _signatures(corpus: Corpus, ids: Int64[np.ndarray, "rows"]) -> UInt32[np.ndarray, "rows values"]:
    found = np.empty((len(ids), CHUNK_VALUES), dtype=np.uint32)
    for block, places, rows in corpus.by_block(ids):
        key = signature_key(corpus.blocks[block].key)
        found[places] = read_block(corpus.folder, SIGNATURES, key).arrays["chunks"][rows]
    return found


def document_families(
    corpora: list[Corpus], keys: list[UInt64[np.ndarray, "_"]], threshold: float
) -> list[UInt64[np.ndarray, "_"]]:
    """Give similar documents the same key, over all corpora together.

    Args:
        corpora: The corpora; their signatures must exist.
        keys: A key of each document; documents with equal keys are one family from the start.
        threshold: Jaccard similarity from which two documents are similar.
    """
    signatures = np.concatenate([_document_signatures(corpus) for corpus in corpora])
    merged = np.concatenate(keys)
    firsts = np.cumsum([0, *(corpus.num_documents for corpus in corpora)])
    parents = np.arange(len(merged))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = int(parents[number])
        return number

    compared: dict[tuple[int, int], bool] = {}
    for left, right in _candidate_pairs(signatures):
        estimate = float((signatures[left] == signatures[right]).mean())
        if estimate < threshold - _DOCUMENT_SLACK or (left, right) in compared:
            continue
        if root(left) != root(right):
            texts = [_document_grams(corpora, firsts, number) for number in (left, right)]
            compared[left, right] = set_jaccard(*texts) >= threshold
            if compared[left, right]:
                parents[root(right)] = root(left)
    families = np.array([merged[root(number)] for number in range(len(merged))], dtype=np.uint64)
    return [families[begin:end] for begin, end in pairwise(firsts.tolist())]


def set_jaccard(left: UInt64[np.ndarray, "_"], right: UInt64[np.ndarray, "_"]) -> float:
    """Shared runs over all runs of two documents, each counted once."""
    shared, total = len(np.intersect1d(left, right)), len(np.union1d(left, right))
    return shared / max(total, 1)


def _candidate_pairs(signatures: UInt32[np.ndarray, "documents values"]) -> Iterator[tuple[int, int]]:
    """Pairs of documents that agree in a band of their signatures and may be similar by the estimate."""
    filled = np.flatnonzero((signatures != 0xFFFFFFFF).any(axis=1))
    for begin in range(0, DOCUMENT_VALUES, _BAND):
        band = hash_rows(signatures[filled, begin : begin + _BAND].astype(np.int64))
        order = np.argsort(band, kind="stable")
        edges = [*np.flatnonzero(np.diff(band[order], prepend=np.uint64(0))).tolist(), len(order)]
        edges = edges if edges[0] == 0 else [0, *edges]
        for first, last in pairwise(edges):
            same = filled[order[first:last]].tolist()
            # Pairs with the first and the preceding document only: a thousand copies have half a million pairs.
            pairs = {(same[0], other) for other in same[1:]} | set(pairwise(same))
            yield from sorted(pairs)


def _document_signatures(corpus: Corpus) -> UInt32[np.ndarray, "documents values"]:
    parts = [
        read_block(corpus.folder, SIGNATURES, signature_key(block.key)).arrays["documents"] for block in corpus.blocks
    ]
    return np.concatenate([np.zeros((0, DOCUMENT_VALUES), dtype=np.uint32), *parts])


def _document_grams(corpora: list[Corpus], firsts: np.ndarray, number: int) -> UInt64[np.ndarray, "_"]:
    which = int(np.searchsorted(firsts, number, side="right")) - 1
    chunks = corpora[which].chunks_of(number - int(firsts[which]))
    rows = corpora[which].tokens(np.arange(chunks.start, chunks.stop))
    return np.unique(gram_hashes(rows[rows >= 0]))
