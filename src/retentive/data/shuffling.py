"""Shuffled orders that depend on a seed alone."""

import numpy as np
from jaxtyping import Int64


def shuffled(size: int, *key: int) -> Int64[np.ndarray, "size"]:
    """Shuffle the numbers from 0 to ``size - 1``, seeded by a key such as a seed and an epoch.

    Of numpy's generators only ``RandomState`` promises the same numbers in every version, which a run that is
    resumed after an upgrade needs.

    Raises:
        ValueError: If a part of the key is below 0.
    """
    if min(key) < 0:
        raise ValueError(f"seed must be at least 0, but is {min(key)}.")
    bits = np.random.MT19937(np.random.SeedSequence(key))
    return np.random.RandomState(bits).permutation(size).astype(np.int64, copy=False)
