"""The lower bounds that `make test-oldest` installs are those of the metadata."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def floors(*extras: str) -> dict[str, str]:
    run = subprocess.run(
        [sys.executable, ROOT / ".ci" / "floors.py", *extras], capture_output=True, text=True, check=True
    )
    return dict(line.split("==") for line in run.stdout.splitlines())


def test_every_requirement_of_the_tests_has_one_lower_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = floors("test")
    assert "torch" not in found
    assert "retentive" not in found
    for line in project["dependencies"] + project["optional-dependencies"]["hf"]:
        name, _, bounds = line.partition(">=")
        assert name == "torch" or found[name.lower()] == bounds.split(",")[0]
    assert floors("dev").items() >= found.items()


def test_the_core_brings_none_of_the_extras():
    assert floors().keys() == {"jaxtyping", "numpy", "safetensors", "tqdm"}
