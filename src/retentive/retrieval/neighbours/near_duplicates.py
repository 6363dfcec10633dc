"""Near duplicates: texts of which most runs of 13 tokens are the same (Lee et al. 2022, arXiv:2107.06499).

MinHash (Broder 1997) finds candidate pairs, which are then compared exactly. A pair that is similar is found with a
probability of at least ``1 - MISSED`` at any threshold: the sizes of signatures and of their bands follow from it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64, UInt32, UInt64

from retentive.retrieval.blocks.chunking import hash_rows, mix
from retentive.retrieval.passages import Rows

GRAM = 13
MISSED = 1e-3
"""Largest probability that a pair at the threshold is not found, over the choice of hash functions."""

NO_GRAM = np.uint64(0xFFFFFFFFFFFFFFFF)
_CHUNK_VALUES = 32
_DOCUMENT_VALUES = 128
_TINY = 0.2
"""Below this threshold bands of two values would need very long signatures."""

Grams = UInt64[np.ndarray, "rows grams"]
"""Hashes of runs of tokens, the largest number where there is none."""

Signatures = UInt32[np.ndarray, "rows values"]
"""MinHash signatures."""


@dataclass(frozen=True, slots=True)
class Bands:
    """How signatures are compared: pairs that agree in a band and in enough values are compared exactly.

    Attributes:
        values: Values of a signature.
        width: Values of a band; the signature has ``values // width`` of them.
        agreeing: Values in which a pair must agree.
    """

    values: int
    width: int
    agreeing: int

    @property
    def count(self) -> int:
        """Number of bands."""
        return self.values // self.width

    def hashes(self, signatures: Signatures) -> UInt64[np.ndarray, "rows bands"]:
        """A hash of each band of each signature; the number of the band is part of it."""
        found = np.empty((len(signatures), self.count), dtype=np.uint64)
        for band in range(self.count):
            values = signatures[:, band * self.width : (band + 1) * self.width].astype(np.int64)
            found[:, band] = mix(hash_rows(values) ^ np.uint64(band))
        return found

    def may_be_near(self, left: Signatures, right: Signatures) -> np.ndarray:
        """Whether pairs of signatures, row by row, agree in enough values."""
        return (left == right).sum(axis=1) >= self.agreeing


def chunk_bands(threshold: float) -> Bands:
    """Signatures and bands of chunks for a threshold."""
    return _bands(threshold, max(_CHUNK_VALUES, _values_needed(threshold, 1)))


def document_bands(threshold: float) -> Bands:
    """Signatures and bands of documents for a threshold."""
    return _bands(threshold, max(_DOCUMENT_VALUES, _values_needed(threshold, 1 if threshold < _TINY else 2)))


def _bands(threshold: float, values: int) -> Bands:
    """The widest bands that miss at most half of `MISSED`; the number of agreeing values may miss the other half."""
    width = max(width for width in range(1, values + 1) if width == 1 or _miss(threshold, values, width) <= MISSED / 2)
    return Bands(values, width, _agreeing(threshold, values))


def _miss(threshold: float, values: int, width: int) -> float:
    return (1 - threshold**width) ** (values // width)


def _values_needed(threshold: float, width: int) -> int:
    if threshold >= 1:
        return width
    return width * math.ceil(math.log(MISSED / 2) / math.log1p(-(threshold**width)))


def _agreeing(threshold: float, values: int) -> int:
    """The largest number of agreeing values that a pair at the threshold reaches but for half of `MISSED`."""
    below, probability = 0, 0.0
    while True:
        probability += math.comb(values, below) * threshold**below * (1 - threshold) ** (values - below)
        if probability > MISSED / 2:
            return below
        below += 1


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
    grams = np.stack([hash_rows(windows[:, place]) for place in range(windows.shape[1])], axis=1)
    grams[np.arange(grams.shape[1]) + GRAM > lengths[:, None]] = NO_GRAM
    grams[:, 0] = np.where(lengths < GRAM, whole, grams[:, 0])
    return grams


@lru_cache(maxsize=4)
def _permutations(values: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = mix(np.arange(2 * values, dtype=np.uint64))
    return numbers[:values] | np.uint64(1), numbers[values:]


def minhash(grams: Grams, values: int) -> Signatures:
    """MinHash signatures: two rows agree in a value with a probability equal to their Jaccard similarity."""
    factors, shifts = _permutations(values)
    found = np.full((len(grams), values), 0xFFFFFFFF, dtype=np.uint32)
    if grams.shape[1] == 0:
        return found
    absent = grams == NO_GRAM
    for number in range(values):
        permuted = (grams * factors[number] + shifts[number]) >> np.uint64(32)
        permuted[absent] = 0xFFFFFFFF
        found[:, number] = permuted.min(axis=1)
    return found


def jaccard(left: Grams, right: Grams) -> Float64[np.ndarray, "rows"]:
    """Shared runs over all runs, row by row, each counted once."""
    left, right = _unique(left), _unique(right)
    both = np.sort(np.concatenate([left, right], axis=1), axis=1)
    shared = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] != NO_GRAM)).sum(axis=1)
    total = (left != NO_GRAM).sum(axis=1) + (right != NO_GRAM).sum(axis=1) - shared
    return shared / np.maximum(total, 1)


def set_jaccard(left: UInt64[np.ndarray, "_"], right: UInt64[np.ndarray, "_"]) -> float:
    """Shared runs over all runs of two documents, each counted once."""
    shared, total = len(np.intersect1d(left, right)), len(np.union1d(left, right))
    return shared / max(total, 1)


def _unique(grams: Grams) -> Grams:
    grams = np.sort(grams, axis=1)
    grams[:, 1:][grams[:, 1:] == grams[:, :-1]] = NO_GRAM
    return grams
