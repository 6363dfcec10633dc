"""Measurements become the sections that they should, with captions that hide nothing."""

import json
from pathlib import Path

import pytest

from retentive.evaluation.measures.bits_per_byte import BitsPerByte
from retentive.evaluation.measures.documents import Coverage
from retentive.evaluation.measures.loss_by_position import LossByPosition, PositionBucket
from retentive.evaluation.measures.speed import LeftOut, SpeedPoint, SpeedReport
from retentive.evaluation.report import charts

COVERAGE = Coverage(split="heldout", documents=2, documents_in_split=5, text_bytes=900, text_bytes_in_split=4000)


def bits(method: str, value: float, error: float | None = 0.01) -> BitsPerByte:
    windows = method == "windows"
    return BitsPerByte(
        method=method,
        bits_per_byte=value,
        standard_error=error,
        nats_per_token=2.0,
        tokens=1234,
        bytes=900,
        documents=2,
        coverage=COVERAGE,
        window=2048 if windows else None,
        stride=1024 if windows else None,
        seconds=1.0,
    )


def point(model: str, context: int, speed: float, turns: int = 5) -> SpeedPoint:
    return SpeedPoint(
        model=model,
        context=context,
        state_bytes=context * 10,
        decode_tokens_per_second=speed,
        decode_slowest=speed / 2,
        decode_fastest=speed * 2,
        decode_turns=turns,
        prefill_tokens_per_second=speed * 100,
        prefill_runs=3,
    )


SPEED = SpeedReport(
    points=(point("A", 128, 50.0), point("B", 128, 40.0), point("A", 512, 49.0, turns=3)),
    left_out=(LeftOut(model="B", context=512, expected_seconds=99.0, seconds_left=3.0),),
    batch_size=1,
    tokens_per_turn=8,
    device="cpu",
    threads=2,
    seconds=10.0,
)
RESULTS = {"A": [bits("windows", 1.5), bits("one_pass", 1.25, None)], "B": [bits("windows", 2.0)]}


def test_a_short_history_is_shown_as_it_is():
    chart = charts.training_chart({"A": charts.LossHistory(tokens=(10.0, 20.0), nats_per_token=(3.0, 2.0))})
    assert (chart.curves[0].x, chart.curves[0].y, chart.curves[0].low) == ((10.0, 20.0), (3.0, 2.0), None)
    assert "mean of" not in chart.caption


def test_a_long_history_is_averaged_and_says_so():
    history = charts.LossHistory(tokens=tuple(map(float, range(1, 201))), nats_per_token=tuple(map(float, range(200))))
    chart = charts.training_chart({"A": history})
    (curve,) = chart.curves
    assert "Each point is the mean of 3 measurements; the band is their range." in chart.caption
    assert (curve.x[0], curve.y[0], curve.low[0], curve.high[0]) == (3.0, 1.0, 0.0, 2.0)
    assert (curve.x[-1], curve.y[-1]) == (200.0, 198.5)
    assert len(curve.x) == 67


def test_a_history_is_read_from_the_metrics_of_a_run(tmp_path: Path):
    lines = [
        {"step": 10, "kind": "train", "loss": 3.0},
        {"step": 10, "kind": "held_out", "loss": 9.0},
        {"step": 20, "kind": "train", "loss": 2.5},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert charts.read_loss_history(path, tokens_per_step=64) == charts.LossHistory(
        tokens=(640.0, 1280.0), nats_per_token=(3.0, 2.5)
    )


def test_bars_are_of_the_ways_that_all_models_were_measured_by():
    chart = charts.bits_per_byte_chart(RESULTS)
    assert chart.groups == ("windows of 2,048\n(stride 1,024)",)
    assert [(bars.name, bars.heights, bars.errors) for bars in chart.bars] == [
        ("A", (1.5,), (0.01,)),
        ("B", (2.0,), (0.01,)),
    ]
    assert "a sample of 2 of 5 documents of 'heldout' (900 of 4,000 bytes)" in chart.caption
    assert "1,234 tokens" in chart.caption
    both = charts.bits_per_byte_chart({"A": RESULTS["A"]})
    assert both.groups == ("windows of 2,048\n(stride 1,024)", "one pass")
    assert both.bars[0].errors == (0.01, None)


def test_bars_without_a_common_way_are_refused():
    with pytest.raises(ValueError, match="a method that all models were measured by, but have none"):
        charts.bits_per_byte_chart({"A": [bits("windows", 1.0)], "B": [bits("one_pass", 1.0)]})
    with pytest.raises(ValueError, match="a method that all models were measured by, but have none"):
        charts.bits_per_byte_chart({})


def test_positions_have_error_bars_and_counts():
    buckets = (
        PositionBucket(first=1, last=1, nats_per_token=3.0, standard_error=0.5, tokens=2, documents=2),
        PositionBucket(first=2, last=3, nats_per_token=2.0, standard_error=None, tokens=7, documents=1),
    )
    chart = charts.position_chart(
        {"A": LossByPosition(buckets=buckets, coverage=COVERAGE, seconds=1.0)}, training_window=512
    )
    (curve,) = chart.curves
    assert (curve.x, curve.y, curve.low, curve.high) == ((1.0, 2.0), (3.0, 2.0), (2.5, 2.0), (3.5, 2.0))
    assert chart.x_scale == "log"
    assert "Training windows were 512 tokens long." in chart.caption
    assert "From 2 on: 7 tokens of 1 documents." in chart.caption


def test_speeds_show_their_spread_and_what_was_left_out():
    speed, size = charts.speed_charts(SPEED)
    assert [(curve.name, curve.x, curve.y) for curve in speed.curves] == [
        ("A", (128.0, 512.0), (50.0, 49.0)),
        ("B", (128.0,), (40.0,)),
    ]
    assert (speed.curves[0].low, speed.curves[0].high) == ((25.0, 24.5), (100.0, 98.0))
    for words in ("Medians of 3 to 5 turns of 8 tokens", "batch 1, on the CPU with 2 threads", "B at 512 was left out"):
        assert words in speed.caption
    assert [(curve.name, curve.y) for curve in size.curves] == [("A", (1280.0, 5120.0)), ("B", (1280.0,))]
    assert (size.y_unit, size.y_scale) == ("bytes", "log")


def test_prefill_has_a_chart_of_its_own():
    chart = charts.prefill_chart(SPEED)
    assert [(curve.name, curve.y) for curve in chart.curves] == [("A", (5000.0, 4900.0)), ("B", (4000.0,))]
    assert "Medians of 3 runs" in chart.caption


def test_the_table_compares_speeds_at_a_context_that_all_reached():
    table = charts.results_table(
        RESULTS, parameters={"A": 1000, "B": 2000}, training_seconds={"A": 1.0, "B": 2.0}, speed=SPEED
    )
    assert "decode at 128 (tokens/s)" in table.columns
    assert table.rows == (
        ("A", "1,000", "1", "1.500 ± 0.010", "1.250", "50", "5,000", "1,280"),
        ("B", "2,000", "2", "2.000 ± 0.010", "–", "40", "4,000", "1,280"),
    )
    with pytest.raises(ValueError, match="speed must have a context at which all models were measured, but has none"):
        charts.results_table({"C": RESULTS["A"]}, parameters={"C": 1}, training_seconds={"C": 1.0}, speed=SPEED)
