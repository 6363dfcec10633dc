"""How far a mean over documents may be off."""

import math

import numpy as np
from jaxtyping import Float64, Int64


def standard_error_of_ratio(
    totals: Float64[np.ndarray, "documents"], sizes: Int64[np.ndarray, "documents"]
) -> float | None:
    """Standard error of ``totals.sum() / sizes.sum()`` when documents are drawn independently.

    Tokens of one document are alike, so documents, not tokens, are what is counted (Cochran 1977, Sampling Techniques,
    eq. 2.46, without the finite population's correction).

    Args:
        totals: Sum over each document, as of nats.
        sizes: What it is divided by, as tokens or bytes; documents of size 0 do not count.

    Returns:
        None for fewer than two documents, which tell nothing of others.
    """
    totals, sizes = totals[sizes > 0], sizes[sizes > 0]
    count = len(sizes)
    if count < 2:
        return None
    residuals = totals - totals.sum() / sizes.sum() * sizes
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / float(sizes.sum())
