"""The examples are short, run, and come to what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def output_of(name: str, folder: Path) -> str:
    (path,) = (path for path in EXAMPLES if path.stem == name)
    run = subprocess.run([sys.executable, str(path)], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path):
    assert len(path.read_text().splitlines()) <= 60


def test_retnet_learns_and_goes_on_from_its_state(tmp_path: Path):
    printed = output_of("retnet", tmp_path)
    before, after = map(float, re.findall(r"loss ([\d.]+) -> ([\d.]+)", printed)[0])
    assert after < before - 2
    assert "with the same text as without a stop" in printed
    assert not list(tmp_path.iterdir())


def test_rmt_remembers_over_segments(tmp_path: Path):
    with_memory, without = map(int, re.findall(r"(\d+)% right", output_of("rmt", tmp_path)))
    assert with_memory > 90
    assert without < 50


def test_retro_reads_what_is_found(tmp_path: Path):
    printed = output_of("retro", tmp_path)
    before, after = map(float, re.findall(r"loss ([\d.]+) -> ([\d.]+)", printed)[0])
    assert after < before - 0.5
    assert int(re.findall(r"(\d+)% of the next chunk", printed)[0]) > 50
