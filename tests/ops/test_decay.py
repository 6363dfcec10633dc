"""The schedules are the published ones, and no precision turns a decay into none."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retentive.ops import log_decay_geometric, log_decay_linspace
from retentive.ops.retention.decay import decay_tables
from retentive.ops.retention.recurrent import recurrent_decay

getcontext().prec = 50


@pytest.mark.parametrize("heads", [1, 4, 8, 32])
def test_geometric_is_exact_in_float64(heads: int):
    found = log_decay_geometric(heads)
    assert found.dtype == torch.float64
    for head, ours in enumerate(found.tolist()):
        assert ours == pytest.approx(float((1 - Decimal(2) ** (-5 - head)).ln()), rel=1e-15)


@pytest.mark.parametrize("heads", [1, 2, 8, 16])
def test_linspace_is_exact_in_float64(heads: int):
    found = log_decay_linspace(heads)
    assert found.dtype == torch.float64
    first, last = Decimal(1) / 32, Decimal(1) / 512
    for head, ours in enumerate(found.tolist()):
        share = Decimal(head) / max(heads - 1, 1)
        exact = (1 - (first.ln() + share * (last.ln() - first.ln())).exp()).ln()
        assert ours == pytest.approx(float(exact), rel=1e-13)


def test_every_head_forgets_and_later_heads_more_slowly():
    for schedule in (log_decay_geometric(24), log_decay_linspace(24)):
        assert (schedule < 0).all()
        assert (schedule.diff() > 0).all()


@pytest.mark.parametrize("schedule", [log_decay_geometric, log_decay_linspace])
def test_there_is_at_least_one_head(schedule):
    with pytest.raises(ValueError, match="num_heads must be at least 1, but is 0"):
        schedule(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_table_entry_is_the_exact_power_rounded_once(dtype: torch.dtype):
    log_decay = log_decay_geometric(12)
    tables = decay_tables(log_decay, 9, dtype)
    for head, gamma in enumerate(1 - Decimal(2) ** (-5 - head) for head in range(12)):
        powers = torch.tensor([float(gamma**exponent) for exponent in range(10)], dtype=torch.float64)
        ulp = {"rtol": torch.finfo(dtype).eps, "atol": 0}
        torch.testing.assert_close(tables.query[0, head, 0, :, 0].double(), powers[1:], **ulp)
        torch.testing.assert_close(tables.key[0, head, 0, :, 0].double(), powers[:9].flip(0), **ulp)
        torch.testing.assert_close(tables.chunk[0, head, 0, :, 0].double(), powers[9:], **ulp)
        for query in range(9):
            for key in range(9):
                expected = powers[query - key] if key <= query else torch.zeros((), dtype=torch.float64)
                torch.testing.assert_close(tables.intra[0, head, 0, query, key].double(), expected, **ulp)


@given(size=st.integers(1, 12), chunks=st.integers(1, 3))
def test_flags_that_say_nothing_change_no_entry(size: int, chunks: int):
    log_decay = log_decay_linspace(3)
    shared = decay_tables(log_decay, size, torch.float64)
    real, begun = torch.ones(2, size * chunks, dtype=torch.bool), torch.zeros(2, size * chunks, dtype=torch.bool)
    for flags in ({"mask": real}, {"starts": begun}, {"mask": real, "starts": begun}):
        tables = decay_tables(log_decay, size, torch.float64, **flags)
        for name in ("intra", "query", "key", "chunk"):
            ours, theirs = getattr(tables, name), getattr(shared, name)
            assert torch.equal(ours, theirs.expand_as(ours)), name


def test_a_decay_is_never_rounded_to_one():
    # In bfloat16 1 - 2**-9 is 1; the eighth head of the geometric schedule has 1 - 2**-12.
    assert (recurrent_decay(log_decay_geometric(16), torch.float32) < 1).all()
    tables = decay_tables(log_decay_geometric(16), 64, torch.float32)
    assert (tables.chunk < 1).all()
    assert math.isclose(float(tables.chunk[0, 15]), (1 - 2.0**-20) ** 64, rel_tol=1e-6)
