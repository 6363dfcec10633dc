"""A run that ends at any moment, in whatever way, goes on in a new process as if it had not."""

import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from retentive.training.run.checkpoint_folder import checkpoint_folders
from retentive.training.run.trainer import train
from training.conftest import STREAMED, Launch, asked_configs, command, environment, final_tensors, step_lines

pytestmark = pytest.mark.usefixtures("long_training")


def start(store: Path, asked: dict[str, Any], **options: Any) -> subprocess.Popen[str]:
    """A run in a process that is not waited for."""
    return subprocess.Popen(
        command(store, asked), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str], step: int) -> None:
    """Wait until a checkpoint of that step, or a later one, is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        folders = checkpoint_folders(run / "checkpoints")
        if folders and folders[-1].name >= f"step-{step:08d}":
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of step {step}: {process.communicate()}")


def assert_same_end(one: Path, other: Path) -> None:
    """Bit for bit: weights, optimizer, carried states, and every step's metrics."""
    expected, found = final_tensors(one), final_tensors(other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert step_lines(one) == step_lines(other)


def test_a_new_process_goes_on_bit_for_bit(store: Path, tmp_path: Path, launch: Launch):
    retro = {"model": {"family": "retro"}, "neighbours": {"share_without": 0.3, "own_text_steps": 8}}
    released = {**retro, "neighbours": {"own_text_steps": 4}}  # the share falls from before the restart on
    modes: dict[str, dict[str, Any]] = {
        "packed": {},
        "streamed": {"data": STREAMED},
        "neighbours": retro,
        "less own text": released,
        "neighbours of streams": {**retro, "model": {"family": "retro", "backbone": "retnet"}, "data": STREAMED},
    }
    for mode, asked in modes.items():
        train(*asked_configs(store, {"run": tmp_path / f"{mode}-whole", **asked}))
        train(*asked_configs(store, {"run": tmp_path / f"{mode}-halves", "steps": 6, **asked}))
    reports = launch(*({"run": tmp_path / f"{mode}-halves", **asked} for mode, asked in modes.items()))
    assert [report["resumed_at"] for report in reports] == [6] * len(modes)
    for mode in modes:
        assert_same_end(tmp_path / f"{mode}-whole", tmp_path / f"{mode}-halves")


def test_a_line_of_metrics_is_a_mean_over_the_steps_before_a_restart_too(store: Path, tmp_path: Path):
    often = {"metrics": {"every": 5}, "checkpoints": {"every": 3, "keep_last": 9}, "held_out": {"every": None}}
    asked = asked_configs(store, {"run": tmp_path, **often})
    train(*asked)
    whole = step_lines(tmp_path)
    for path in checkpoint_folders(tmp_path / "checkpoints")[1:]:  # as if it had been killed after step 3
        shutil.rmtree(path)
    assert train(*asked).resumed_at == 3
    assert [line[0] for line in whole] == [5, 10, 12]
    assert step_lines(tmp_path) == whole


def test_killed_at_random_moments_and_started_again(store: Path, tmp_path: Path):
    moments = random.Random(time.time_ns())
    asked: dict[str, Any] = {
        "data": STREAMED,
        "steps": 40,
        "schedule": {"warmup_steps": 3},
        "checkpoints": {"every": 1},
        "held_out": {"every": 5, "windows": 6},
    }
    for step in (1, 12):
        process = start(store, {"run": tmp_path / "killed", **asked})
        wait_for_checkpoint(tmp_path / "killed", process, step)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    report = train(*asked_configs(store, {"run": tmp_path / "killed", **asked}))
    train(*asked_configs(store, {"run": tmp_path / "whole", **asked}))
    assert report.resumed_at is not None
    assert 12 <= report.resumed_at < 40
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


def test_asked_to_stop_it_keeps_a_checkpoint_and_goes_on(store: Path, tmp_path: Path):
    asked: dict[str, Any] = {"steps": 100_000, "schedule": {"warmup_steps": 3, "decay_steps": 99}}
    rarely = {"checkpoints": {"every": 1_000_000}, "held_out": {"every": None}}
    process = start(store, {"run": tmp_path / "stopped", **asked, **rarely})
    metrics, deadline = tmp_path / "stopped" / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert '"stopped": true' in output, errors
    assert "stopping after this step; Ctrl-C again stops at once" in errors
    (checkpoint,) = checkpoint_folders(tmp_path / "stopped" / "checkpoints")
    done = int(checkpoint.name.removeprefix("step-"))
    assert f'"steps": {done},' in output
    assert not (tmp_path / "stopped" / "model").exists()
    assert [line[0] for line in step_lines(tmp_path / "stopped")] == list(range(1, done + 1))


def test_a_full_disk_keeps_the_earlier_checkpoint(store: Path, tmp_path: Path):
    train(*asked_configs(store, {"run": tmp_path, "steps": 6}))
    size = max(file.stat().st_size for file in checkpoint_folders(tmp_path / "checkpoints")[-1].iterdir())

    def limit() -> None:  # a limit on the size of files fails as a full disk does, in the middle of a write
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    process = start(store, {"run": tmp_path, "held_out": {"every": None}}, preexec_fn=limit)
    output, errors = process.communicate(timeout=120)
    assert "OSError" in output, errors
    assert "step-00000008" in output
    assert "free some space and start the same command again; step-00000006 is whole" in output
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000006"]
    report = train(*asked_configs(store, {"run": tmp_path}))
    assert (report.resumed_at, report.steps) == (6, 12)
