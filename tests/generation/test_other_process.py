"""A generation goes on in another process, through files, with the tokens of an uninterrupted run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laws.families import small_model
from retentive.checkpoints import save_model, save_state
from retentive.generation import Sampling, generate
from retentive.models.registry import family_names

PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8]]
DRAWN = {"temperature": 1.2, "top_p": 0.95, "seed": 11}
GO_ON = """
import json, sys
from retentive.checkpoints import load_model, load_state
from retentive.generation import Sampling, generate
for folder, file, sampling in json.loads(sys.argv[1]):
    model = load_model(folder)
    state = load_state(file, model)
    tokens = generate(model, state=state, max_new_tokens=8, sampling=Sampling(**sampling)).tokens
    print(json.dumps([row.tolist() for row in tokens]))
"""
MEASURE = """
import os, sys, torch
from retentive.generation import stream
from retentive.models.registry import build, config_class

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

torch.set_num_threads(1)
torch.manual_seed(0)
model = build(config_class("retnet")(vocab_size=11, hidden_size=8, num_layers=1, num_heads=1)).eval()
for count, _ in enumerate(stream(model, [1, 2, 3], max_new_tokens=20_000), 1):
    if count == 100:
        before = resident()
after = resident()
held = bytearray(b"x") * 2**21
print(count, after - before, resident() - after)
"""


def run(script: str, *arguments: str) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_saved_state_goes_on_in_another_process(tmp_path: Path):
    jobs, expected = [], []
    for family in family_names():
        model = small_model(family, dtype=torch.float32)
        save_model(model, tmp_path / family)
        for sampling in ({}, DRAWN):
            options = Sampling(**sampling)
            file = tmp_path / f"{family}-{len(jobs)}.safetensors"
            save_state(generate(model, PROMPTS, max_new_tokens=5, sampling=options).state, file, model)
            jobs.append((str(tmp_path / family), str(file), sampling))
            whole = generate(model, PROMPTS, max_new_tokens=13, sampling=options).tokens
            expected.append([row[5:].tolist() for row in whole])
    assert [json.loads(line) for line in run(GO_ON, json.dumps(jobs))] == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_at_token_20000_is_that_of_token_100():
    count, growth, control = (int(number) for number in run(MEASURE)[0].split())
    assert count == 20_000
    assert growth <= 2**20, f"grew by {growth} bytes"
    assert control >= 1.9 * 2**20, "the measure must see two MiB more"
