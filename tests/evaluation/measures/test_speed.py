"""What the speed measurement counts, and that it keeps to its budget; not how fast anything is."""

import pytest

from laws.families import small_model
from retentive.evaluation.measures.speed import measure_speed
from retentive.models.base import DecoderModel

FAMILIES = ("transformer", "retnet")


@pytest.fixture
def models() -> dict[str, DecoderModel]:
    return {family: small_model(family).float() for family in FAMILIES}


def test_every_model_is_measured_at_every_context(models: dict[str, DecoderModel]):
    report = measure_speed(models, contexts=(4, 16, 48), repetitions=2, tokens_per_turn=3)
    assert [(point.context, point.model) for point in report.points] == [
        (context, name) for context in (4, 16, 48) for name in models
    ]
    assert report.left_out == ()
    assert (report.batch_size, report.tokens_per_turn, report.device) == (1, 3, "cpu")
    for point in report.points:
        assert (point.decode_turns, point.prefill_runs) == (2, 2)
        assert 0 < point.decode_slowest <= point.decode_tokens_per_second <= point.decode_fastest
        assert point.prefill_tokens_per_second > 0


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_state_is_that_of_one_row_after_the_context(models: dict[str, DecoderModel], batch_size: int):
    report = measure_speed(models, contexts=(5, 40), batch_size=batch_size, repetitions=1, budget_seconds=1e5)
    sizes = {(point.model, point.context): point.state_bytes for point in report.points}
    assert sizes["retnet", 5] == sizes["retnet", 40]
    # Two layers' keys and values of 16 channels in float32, and a position.
    assert sizes["transformer", 40] == 40 * 2 * 2 * 16 * 4 + 8
    assert sizes["transformer", 5] == 5 * 2 * 2 * 16 * 4 + 8


def test_what_the_budget_has_no_room_for_is_told(models: dict[str, DecoderModel]):
    report = measure_speed(models, contexts=(4, 64), repetitions=3, budget_seconds=1e-9)
    # The first context is always measured, once.
    assert [(point.model, point.context) for point in report.points] == [(name, 4) for name in models]
    assert {(point.decode_turns, point.prefill_runs) for point in report.points} == {(1, 1)}
    assert [(missed.model, missed.context) for missed in report.left_out] == [(name, 64) for name in models]
    assert all(missed.expected_seconds > missed.seconds_left == 0 for missed in report.left_out)


def test_seconds_of_the_budget_are_told_up_to_the_budget(models: dict[str, DecoderModel]):
    told: list[int] = []
    report = measure_speed(models, contexts=(4,), repetitions=2, on_seconds=told.append)
    assert len(told) == (1 + 2 + 2) * len(models)  # after reading, and after each turn
    assert sum(told) <= report.seconds


def test_models_are_left_in_their_mode(models: dict[str, DecoderModel]):
    models["retnet"].train()
    measure_speed(models, contexts=(4,), repetitions=1)
    assert models["retnet"].training
    assert not models["transformer"].training


def test_numbers_out_of_range_are_refused(models: dict[str, DecoderModel]):
    with pytest.raises(ValueError, match="models must hold at least one model, but hold none"):
        measure_speed({})
    for contexts in ((), (0, 4), (8, 4), (4, 4)):
        with pytest.raises(ValueError, match="contexts must be numbers of tokens from 1 up, each above the last"):
            measure_speed(models, contexts=contexts)
    for name in ("batch_size", "tokens_per_turn", "repetitions"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, but is 0"):
            measure_speed(models, **{name: 0})
    with pytest.raises(ValueError, match="budget_seconds must be above 0, but is -1"):
        measure_speed(models, budget_seconds=-1.0)
