"""Standard errors of means over documents, and intervals for shares of trials."""

import math

import numpy as np
from jaxtyping import Float64, Int64

from retentive.config_types import check_count


def standard_error_of_ratio(
    totals: Float64[np.ndarray, "documents"], sizes: Int64[np.ndarray, "documents"]
) -> float | None:
    """Standard error of ``totals.sum() / sizes.sum()`` when documents are drawn independently.

    Tokens of one document are alike, so documents, not tokens, are what is counted (Cochran 1977, Sampling Techniques,
    eq. 2.46, without the finite population's correction).

    Args:
        totals: Sum over each document, as of nats.
        sizes: The divisor of each document, such as its tokens or bytes; documents of size 0 do not count.

    Returns:
        The standard error; None for fewer than two documents.
    """
    totals, sizes = totals[sizes > 0], sizes[sizes > 0]
    count = len(sizes)
    if count < 2:
        return None
    residuals = totals - totals.sum() / sizes.sum() * sizes
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / float(sizes.sum())


def wilson_interval(hits: int, trials: int, *, deviations: float = 1.96) -> tuple[float, float]:
    """The interval for the chance of a hit, from the hits in independent trials (Wilson 1927, JASA 22:209).

    Unlike the normal approximation it is never empty and never leaves 0 to 1, also where every trial was a hit.

    Args:
        hits: Trials that were hits.
        trials: All of them.
        deviations: Standard normal deviations to either side; 1.96 gives 95 percent.

    Raises:
        ValueError: If there are no trials, or not 0 to ``trials`` hits.
    """
    if trials < 1 or not 0 <= hits <= trials:
        raise ValueError(f"hits must be from 0 to trials, of at least 1, but are {hits} of {trials}.")
    share, spread = hits / trials, deviations**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    totals: Float64[np.ndarray, "documents"], sizes: Int64[np.ndarray, "documents"], *, resamples: int = 1000
) -> tuple[float, float]:
    """The 95 percent interval of a sum over a size, from documents that are drawn again (Efron 1979).

    Text within a document is alike, so documents are drawn and not chunks. The draws are always the same.

    Args:
        totals: Of each document, such as bits.
        sizes: Of each document, such as bytes; documents of size 0 are left out.
        resamples: Draws of as many documents as there are.

    Raises:
        ValueError: If no document has a size.
    """
    check_count("resamples", resamples)
    totals, sizes = totals[sizes > 0], sizes[sizes > 0]
    if len(sizes) == 0:
        raise ValueError("sizes must have a document of more than 0, but all are 0.")
    drawn = np.random.default_rng(0).integers(len(sizes), size=(resamples, len(sizes)))
    low, high = np.quantile(totals[drawn].sum(1) / sizes[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)
