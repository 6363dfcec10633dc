"""One of four processes that begin runs together, of which three, two and one go on from the same checkpoints.

``shrinking_process.py RANK STORE FOLDER``. The fourth meanwhile makes the same runs whole, by itself.
"""

import faulthandler
import gc
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))
from retentive.training.run.trainer import train
from training.conftest import STREAMED, asked_configs

ROWS = {**STREAMED, "batch_size": 12}
TASKS: dict[str, dict[str, Any]] = {
    "parts of texts": {"model": {"family": "hybrid", "pattern": ("gated_retention", "window_attention"), "window": 5}},
    "replay of recurrent memory": {"model": {"family": "rmt"}, "hardware": {"backpropagation": "replay"}},
    "neighbours": {"model": {"family": "retro", "backbone": "retnet"}},
}
PARTS = {4: 2, 3: 3, 2: 2, 1: 1}
"""Processes that read one text, of as many processes in all."""


def make_runs(store: Path, folder: Path, name: str, count: int, steps: int) -> None:
    """All tasks, up to a step."""
    for task, asked in TASKS.items():
        hardware = {**asked.get("hardware", {}), "strategy": "fsdp"}
        if task == "parts of texts":
            hardware["sequence_parallel"] = PARTS[count]
        values = {"data": ROWS, "held_out": {"every": None}, "metrics": {"every": 1}, **asked, "hardware": hardware}
        values["model"] = {**asked["model"], "dropout": 0.0}
        train(*asked_configs(store, {**values, "run": folder / f"{task} {name}", "steps": steps}))


def together(rank: int, store: Path, folder: Path, name: str, count: int, steps: int) -> None:
    """Make runs as one of some processes."""
    os.environ["WORLD_SIZE"] = str(count)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/group{count}", rank=rank, world_size=count)
    make_runs(store, folder, name, count, steps)
    if count > 1:
        gc.collect()
        dist.destroy_process_group()


def main() -> None:
    """Begin with four processes, and go on with fewer."""
    faulthandler.dump_traceback_later(200, exit=True)
    torch.set_num_threads(1)
    rank, store, folder = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    together(rank, store, folder, "of four", 4, steps=2)
    if rank == 3:
        together(rank, store, folder, "whole", 1, steps=4)
        return
    if rank == 0:
        for task in TASKS:
            for count in (1, 2, 3):
                shutil.copytree(folder / f"{task} of four", folder / f"{task} by {count}")
    for count in (3, 2, 1):
        if rank < count:
            together(rank, store, folder, f"by {count}", count, steps=4)


main()
