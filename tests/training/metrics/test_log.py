"""Lines of metrics: complete, in order, and rewound when a run goes on from an earlier checkpoint."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from retentive.errors import DamagedFileError
from retentive.training.metrics.log import MetricsLog, read_metrics


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


def test_tensorboard_forgets_steps_that_a_restart_makes_again(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, after in ((1.0, 0), (2.0, 2)):
        log = MetricsLog(tmp_path / "metrics.jsonl", after_step=after, tensorboard=tmp_path / "events")
        for step in range(after + 1, 5):
            log.write(step, "train", loss=first * step)
        log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 6), (4, 8)]


def test_a_disk_that_fills_up_under_tensorboard_is_named_without_a_traceback(tmp_path: Path):
    pytest.importorskip("tensorboard")
    program = """
import sys
from pathlib import Path
from retentive.training.metrics.log import MetricsLog
folder = Path(sys.argv[1])
log = MetricsLog(folder / "metrics.jsonl", after_step=0, tensorboard=folder / "events")
try:
    for step in range(1, 1000):
        log.write(step, "a_kind_that_has_a_long_name", loss=1.0)
except OSError as error:
    print(error)
log.close()
"""

    def limit() -> None:  # a limit on the size of files fails as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=True)
    assert done.stderr == ""
    assert "while writing (cure: free some space" in done.stdout
    assert "events/events.out.tfevents." in done.stdout, "the file of events fills up before that of lines"


def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, after_step=0)
    for step in (1, 2, 3):
        log.write(step, "train", loss=1.0)
    damaged = path.read_text().replace('"step": 2', '"st\x00p": 2,,')
    path.write_text(damaged)
    with pytest.raises(DamagedFileError, match=r"line 2 of .*metrics\.jsonl is not a line of metrics: remove it"):
        MetricsLog(path, after_step=3)
    assert path.read_text() == damaged
