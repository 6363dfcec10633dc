import pytest

from retentive.retrieval.plan import Check, PlanConfig, check_plans, make_plan


def test_the_published_points_are_met_but_for_one_that_is_explained():
    checks = check_plans()
    assert len(checks) == 12
    (other,) = [check for check in checks if not check.agrees]
    assert other.quantity == "bytes of its index in memory"
    assert "not explained" in other.line()


def test_a_check_tells_equal_from_different_and_knows_limits():
    assert Check("x", "bytes", 100.0, 114.0).agrees
    assert not Check("x", "bytes", 100.0, 116.0).agrees
    assert not Check("x", "bytes", 100.0, 80.0).agrees
    assert Check("x", "bytes", 100.0, 80.0, is_limit=True).agrees
    assert not Check("x", "bytes", 100.0, 101.0, is_limit=True).agrees
    assert Check("x", "bytes", 100.0, 116.0).line() == "x: bytes 100, planned 116: differs"


def test_sizes_are_sums_that_can_be_done_by_hand():
    # 64 million tokens in documents of 640: a million chunks, and half a chunk for the end of each of 100,000.
    plan = make_plan(PlanConfig(tokens=64e6, tokens_per_document=640.0, dimension=10, k=2, factory="IVF100,PQ5"))
    assert plan.chunks == 1_050_000
    assert plan.token_bytes == 1_050_000 * 64 * 4
    assert plan.vector_bytes == 1_050_000 * 10 * 4
    assert plan.choice.row_bytes == 5
    assert plan.index_bytes == 1_050_000 * (5 + 8) + 100 * 4 * 10
    assert plan.table_bytes == 1_050_000 * 2 * 12
    assert plan.shards == 1
    assert plan.hours(1_050_000 / 3600) == pytest.approx(1.0)


def test_four_bit_codes_and_rotations_are_counted():
    plan = make_plan(PlanConfig(tokens=64e9, dimension=768, factory="OPQ16_64,IVF65536_HNSW32,PQ16x4fs"))
    assert plan.choice.row_bytes == 8
    assert plan.index_bytes == plan.chunks * 16 + 65536 * 4 * 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0.0}, "tokens must be positive, but is 0"),
        ({"tokens": 1.0, "machines": 0}, "machines must be positive, but is 0"),
        ({"tokens": 1.0, "encode_rate": -1.0}, "encode_rate must be positive chunks a second, but is -1"),
    ],
)
def test_plans_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PlanConfig(**options)
