"""Packages that are not installed: each is named with the extra that brings it, on the command line and from Python."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from laws.families import small_model
from retentive import Datastore
from retentive.cli.mistakes import explanation
from retentive.extras import EXTRA_OF, missing, require
from retentive.retrieval.encoders import words
from retentive.serving.sessions.redis_place import RedisPlace
from retentive.text.subword_tokenizer import train_bpe
from retentive.training.lora import add_lora, check_lora


def _build(folder: Path) -> None:
    for kept in vars(words).values():  # a package that was imported for one text is there for the next
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()
    Datastore.build([("a", "un été")], folder / "store")


NEEDING: dict[str, list[Callable[[Path], object]]] = {
    "peft": [lambda _: check_lora(), lambda _: add_lora(small_model("retnet"), 2)],
    "redis": [lambda _: RedisPlace("redis://localhost:1")],
    "regex": [_build],
    "tantivy": [_build],
    "tokenizers": [lambda _: train_bpe(["a text"], vocab_size=300)],
    "zstandard": [_build],
}


@pytest.mark.parametrize(("package", "needs"), [(name, call) for name, calls in NEEDING.items() for call in calls])
def test_what_is_not_installed_is_named_with_its_extra(
    package: str, needs: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs .*{package}.*pip install 'retentive\[{EXTRA_OF[package]}\]'") as met:
        needs(tmp_path)
    assert explanation(met.value) == str(met.value)


def test_the_error_of_python_itself_is_explained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError) as met:
        import_module("peft")
    assert explanation(met.value) == missing("peft")


def test_a_package_that_is_there_is_taken_and_one_it_needs_is_not_blamed_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    require("numpy", "this")
    assert np
    (tmp_path / "half_there.py").write_text("import what_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'what_it_needs'$"):
        require("half_there", "this")
