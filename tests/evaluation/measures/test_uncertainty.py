"""Standard errors."""

import math

import numpy as np
import pytest

from retentive.evaluation.measures.uncertainty import standard_error_of_ratio, wilson_interval


def test_documents_of_one_size_give_the_error_of_a_mean():
    totals = np.asarray([3.0, 5.0, 4.0, 9.0, 2.5])
    expected = np.std(totals / 7, ddof=1) / math.sqrt(5)
    assert standard_error_of_ratio(totals, np.full(5, 7)) == pytest.approx(expected, rel=1e-12)


def test_it_is_the_spread_of_the_ratio_over_samples_of_documents():
    generator = np.random.default_rng(0)
    sizes = generator.integers(10, 2000, size=(4000, 60))
    totals = sizes * (2 + 0.3 * generator.standard_normal(sizes.shape))
    spread = (totals.sum(1) / sizes.sum(1)).std(ddof=1)
    errors = [standard_error_of_ratio(total, size) for total, size in zip(totals, sizes, strict=True)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.05)


def test_documents_without_a_token_do_not_count():
    assert standard_error_of_ratio(np.asarray([3.0, 5.0, 0.0]), np.asarray([2, 2, 0])) == pytest.approx(
        standard_error_of_ratio(np.asarray([3.0, 5.0]), np.asarray([2, 2]))
    )


def test_one_document_tells_nothing_of_others():
    assert standard_error_of_ratio(np.asarray([3.0, 0.0]), np.asarray([2, 0])) is None


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 64), (4, 64), (32, 64), (63, 64), (64, 64)])
def test_wilsons_bounds_are_where_the_hits_would_be_two_deviations_off(hits: int, trials: int):
    low, high = wilson_interval(hits, trials)
    share = hits / trials
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if bound not in (0.0, 1.0):
            deviation = math.sqrt(bound * (1 - bound) / trials)
            assert abs(share - bound) == pytest.approx(1.96 * deviation, rel=1e-9)
    assert wilson_interval(64, 64)[0] == pytest.approx(0.9434, abs=1e-4)


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (2, 1), (-1, 5)])
def test_hits_that_cannot_be_are_refused(hits: int, trials: int):
    with pytest.raises(ValueError, match=f"hits must be from 0 to trials, of at least 1, but are {hits} of {trials}"):
        wilson_interval(hits, trials)
