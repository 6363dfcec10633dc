"""The API pages name every public name, and nothing that is not there."""

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

API = Path(__file__).parents[2] / "docs" / "api"
SHOWN = [
    name for page in sorted(API.glob("*.md")) for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
]
PACKAGES = [
    "retentive",
    "retentive.checkpoints",
    "retentive.checkpoints.conversion",
    "retentive.compat.retro_pytorch",
    "retentive.evaluation",
    "retentive.generation",
    "retentive.huggingface",
    "retentive.engine",
    "retentive.models.hybrid",
    "retentive.models.retnet",
    "retentive.models.retro",
    "retentive.models.rmt",
    "retentive.models.transformer",
    "retentive.models.yoco",
    "retentive.nucleotides",
    "retentive.retrieval",
]


def named(name: str) -> Any:
    home, _, last = name.rpartition(".")
    try:
        return getattr(import_module(home), last)
    except ImportError:
        return import_module(name)


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_there_and_explained(name: str):
    shown = named(name)
    assert shown.__doc__
    # A module of a function's own name would be shown in its place.
    assert isinstance(shown, ModuleType) == (name in ("retentive.shapes", "retentive.errors"))


def test_nothing_is_shown_twice():
    assert len(set(SHOWN)) == len(SHOWN)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_shown(package: str):
    module = import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    shown = [named(name) for name in SHOWN]
    absent = [name for name, value in public.items() if callable(value) and not any(value is one for one in shown)]
    assert absent == []
