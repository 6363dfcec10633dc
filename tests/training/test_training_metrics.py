"""Lines of metrics: complete, in order, and rewound when a run goes on from an earlier checkpoint."""

from pathlib import Path

import pytest

from retentive.training.metrics import MetricsLog, read_metrics


def test_lines_are_read_back_by_kind(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl", after_step=0)
    log.write(1, "train", loss=2.5, bits_per_byte=None)
    log.write(1, "held_out", loss=3.0)
    assert read_metrics(tmp_path / "metrics.jsonl", "train") == [
        {"step": 1, "kind": "train", "loss": 2.5, "bits_per_byte": None}
    ]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_later_steps_and_a_torn_line_are_removed_on_going_on(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, after_step=0)
    for step in range(1, 6):
        log.write(step, "train", loss=float(step))
    with path.open("a") as file:
        file.write('{"step": 6, "ki')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5]
    MetricsLog(path, after_step=3).write(4, "train", loss=0.0)
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 0.0)]


def test_tensorboard_gets_the_same_numbers(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = MetricsLog(tmp_path / "metrics.jsonl", after_step=0, tensorboard=tmp_path / "events")
    log.write(3, "train", loss=2.5, bits_per_byte=None)
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 2.5)]
    assert "train/bits_per_byte" not in events.Tags()["scalars"]
