"""Two processes learn what one does, whether they copy the model or shard it, and share their checkpoints with one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from retentive.training.metrics.log import read_metrics
from retentive.training.run.trainer import train
from training.conftest import STREAMED, Launch, asked_configs, environment, final_tensors, outputs_of_group

pytestmark = pytest.mark.usefixtures("long_training")

WAITING, SHARDING, SHRINKING = (
    Path(__file__).parent / f"{name}_process.py" for name in ("waiting", "sharding", "shrinking")
)

# Without dropout: each process draws its own, so only without it two are one.
PLAIN = {"dropout": 0.0}
TASKS: dict[str, dict[str, Any]] = {
    "packed": {"model": PLAIN},
    "tied": {"model": {**PLAIN, "family": "transformer", "tie_embeddings": True}, "hardware": {"accumulation": 2}},
    "streamed": {"model": PLAIN, "data": STREAMED},
    "recurrent memory": {"model": {**PLAIN, "family": "rmt"}, "data": {**STREAMED, "window": 7}},
    "masked tokens": {
        "model": {**PLAIN, "family": "rmt", "bidirectional": True},
        "objective": {"name": "masked_tokens", "share": 0.3},
    },
    "distillation": {"model": {**PLAIN, "family": "rmt"}, "data": STREAMED, "objective": {"name": "distillation"}},
    "neighbours": {"model": {**PLAIN, "family": "retro"}, "neighbours": {"share_without": 0.3}},
    "neighbours of streams": {"model": {**PLAIN, "family": "retro", "backbone": "retnet"}, "data": STREAMED},
    "parts of windows": {"model": PLAIN, "data": {"window": 15, "batch_size": 4}},
    "parts of streams": {
        "model": {
            **PLAIN,
            "family": "hybrid",
            "pattern": ("gated_retention", "window_attention"),
            "window": 5,
            "chunk_size": 64,
        },
        "data": STREAMED,
        "hardware": {"backpropagation": "replay"},
    },
}
IN_PARTS = ("parts of windows", "parts of streams")
"""Tasks of which the two processes read the same rows, each a part of the columns."""
STRATEGIES = ("ddp", "fsdp")
CASES = [(strategy, task) for strategy in STRATEGIES for task in TASKS]


def asked_run(folder: Path, strategy: str, task: str, *, together: bool = False, **more: Any) -> dict[str, Any]:
    """A run of a task, in two processes or in one; ``alone`` is its name where it is whole in one."""
    asked = {"run": folder / f"{strategy}-{task}", **TASKS[task], **more}
    if strategy != "alone":
        asked["hardware"] = {**asked.get("hardware", {}), "strategy": strategy}
    if together and task in IN_PARTS:
        asked["hardware"] = {**asked["hardware"], "sequence_parallel": 2}
    return asked


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory, launch: Launch) -> Path:
    """Every task whole in one process, and its first half in two by each strategy."""
    folder = tmp_path_factory.mktemp("runs")
    diverging = {"optimizer": {"learning_rate": 1e30, "clip_norm": None}, "held_out": {"every": None}}
    halves = [asked_run(folder, strategy, "streamed", steps=6) for strategy in STRATEGIES]
    for asked in halves:
        asked |= {"run": f"{asked['run']}-bfloat16", "hardware": {**asked["hardware"], "precision": "bfloat16"}}
    results = launch(
        *(asked_run(folder, strategy, task, together=True, steps=6) for strategy, task in CASES),
        *({"run": folder / f"diverging-{s}", "hardware": {"strategy": s}, **diverging} for s in STRATEGIES),
        {"run": folder / "odd", "data": {"window": 16, "batch_size": 3}},
        {"run": folder / "thirds", "hardware": {"sequence_parallel": 3}},
        {
            "run": folder / "taught in parts",
            "objective": {"name": "distillation"},
            "hardware": {"sequence_parallel": 2},
        },
        *halves,
        processes=2,
    )
    assert len(results) == 2 * (len(CASES) + 5 + len(halves))
    results, half_precision = results[: -2 * len(halves)], results[-2 * len(halves) :]
    assert all(result["steps"] == 6 for result in half_precision)
    *trained, first, second, odd, thirds, taught = [results[place : place + 2] for place in range(0, len(results), 2)]
    assert all(result["steps"] == 6 for results in trained for result in results)
    for result in (*first, *second):  # the same in both processes
        assert "training diverged at step" in result["error"]
        assert "is not finite" in result["error"]
    for result in odd:
        assert "batch_size must be a multiple of 2, the processes (2) times" in result["error"]
    assert all("sequence_parallel must divide the number of processes, 2, but is 3" in r["error"] for r in thirds)
    assert all("objective must be one that can be measured on each part of a text" in r["error"] for r in taught)
    for task in TASKS:
        train(*asked_configs(store, asked_run(folder, "alone", task)))
    return folder


@pytest.mark.parametrize(("strategy", "task"), CASES)
def test_two_processes_have_the_losses_of_one_which_goes_on_from_them(
    runs: Path, store: Path, strategy: str, task: str
):
    report = train(*asked_configs(store, asked_run(runs, strategy, task)))
    assert (report.resumed_at, report.steps) == (6, 12)
    ours, expected = (read_metrics(runs / f"{name}-{task}" / "metrics.jsonl") for name in (strategy, "alone"))
    ours = [line for line in ours if (line["kind"], line["step"]) != ("held_out", 6)]  # the end of the first half
    assert [(line["kind"], line["step"]) for line in ours] == [(line["kind"], line["step"]) for line in expected]
    for line, other in zip(ours, expected, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5), line["step"]
        assert line["bits_per_byte"] == pytest.approx(other["bits_per_byte"], abs=1e-5)
        if line["kind"] == "train":
            assert line["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    found, whole = final_tensors(runs / f"{strategy}-{task}"), final_tensors(runs / f"alone-{task}")
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_bfloat16_weights_optimizer_and_states_stay_float32(runs: Path, strategy: str):
    run = runs / f"{strategy}-streamed-bfloat16"
    tensors = final_tensors(run)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32, torch.int64}
    assert any(name.startswith("carried.") and name.endswith(".kv") for name in tensors)
    found = [line["loss"] for line in read_metrics(run / "metrics.jsonl", "train")]
    exact = [line["loss"] for line in read_metrics(runs / "alone-streamed" / "metrics.jsonl", "train")][:6]
    assert found == pytest.approx(exact, rel=1e-2)
    assert found != exact


def output_of_two(script: Path) -> str:
    """What two processes of a script print."""
    arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *arguments], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_processes_wait_for_the_first_longer_than_their_group_would():
    assert output_of_two(WAITING).count("[0, 1]") == 2


def test_sharded_models_have_the_weights_of_whole_ones_and_no_process_holds_the_whole():
    shares = [json.loads(line)["share"] for line in output_of_two(SHARDING).splitlines()]
    assert len(shares) == 2
    assert max(shares) < 0.85  # half of the weights, and one whole parameter at a time


def test_two_processes_go_on_from_one(store: Path, tmp_path: Path, launch: Launch):
    for strategy in STRATEGIES:
        train(*asked_configs(store, asked_run(tmp_path, strategy, "streamed", steps=6)))
    train(*asked_configs(store, asked_run(tmp_path, "alone", "streamed")))
    results = launch(*(asked_run(tmp_path, strategy, "streamed") for strategy in STRATEGIES), processes=2)
    assert [(result["resumed_at"], result["steps"]) for result in results] == [(6, 12)] * 4
    expected = read_metrics(tmp_path / "alone-streamed" / "metrics.jsonl", "train")
    for strategy in STRATEGIES:
        found = read_metrics(tmp_path / f"{strategy}-streamed" / "metrics.jsonl", "train")
        assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-5)


@pytest.mark.slow
def test_one_two_and_three_processes_go_on_from_shards_of_four(store: Path, tmp_path: Path):
    outputs_of_group(SHRINKING, 4, str(store), str(tmp_path))
    found = {folder.name: read_metrics(folder / "metrics.jsonl", "train") for folder in tmp_path.glob("*by*")}
    assert len(found) == 9
    for name, lines in found.items():
        expected = read_metrics(tmp_path / f"{name.split(' by ')[0]} whole" / "metrics.jsonl", "train")
        assert [line["step"] for line in lines] == [1, 2, 3, 4], name
        for measured in ("loss", "gradient_norm"):
            assert [line[measured] for line in lines] == pytest.approx([line[measured] for line in expected], abs=1e-5)
