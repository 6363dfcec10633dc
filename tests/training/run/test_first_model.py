"""The weights that a run begins with: those of a saved model that fits."""

import shutil
from pathlib import Path

import pytest
import torch

from laws.families import small_model
from retentive.checkpoints.weights import load_model, save_model
from retentive.errors import MismatchError
from training.conftest import run


def test_a_run_begins_with_saved_weights(store: Path, tmp_path: Path):
    run(store, tmp_path / "first", steps=6)
    saved = tmp_path / "first" / "model"
    still = {"init": saved, "steps": 1, "schedule": {"warmup_steps": 0}, "optimizer": {"learning_rate": 1e-30}}
    report = run(store, tmp_path / "second", **still)
    assert report.model is not None
    first, second = (load_model(folder).state_dict() for folder in (saved, report.model))
    assert all(torch.equal(first[name], value) for name, value in second.items())
    moved = shutil.copytree(saved, tmp_path / "moved")
    assert run(store, tmp_path / "second", **{**still, "init": moved}).resumed_at == 1
    with pytest.raises(MismatchError, match=r"data\.initial_weights was '.*' and is None"):
        run(store, tmp_path / "second", **{**still, "init": None})


def test_a_first_model_without_a_tokenizer_is_named(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_model(small_model("retnet", dtype=torch.float32, vocab_size=257), tmp_path / "bare")
    once = {"model": {"dropout": 0.0}, "steps": 1, "schedule": {"warmup_steps": 0}}
    for first in (tmp_path / "bare", store.parent / "teacher"):
        run(store, tmp_path / f"from {first.name}", init=first, **once)
        said = f"the model in {first} was saved without a tokenizer: its token ids are taken for those of 'bytes' in"
        assert (said in capsys.readouterr().err) == (first.name == "bare")


def test_saved_weights_that_do_not_fit_are_refused(store: Path, tmp_path: Path):
    teacher = store.parent / "teacher"
    with pytest.raises(MismatchError, match=r"dropout is 0\.0 there, 0\.1 here: leave these options at the saved"):
        run(store, tmp_path, init=teacher)
    with pytest.raises(
        MismatchError, match=r"init must be the folder of a transformer, but the model in .* is a retnet"
    ):
        run(store, tmp_path, init=teacher, model={"family": "transformer"})
    with pytest.raises(ValueError, match="init and retrofit both say which weights the run begins with"):
        run(store, tmp_path, init=teacher, retrofit=teacher)
    with pytest.raises(FileNotFoundError, match="must be the folder of a saved model"):
        run(store, tmp_path, init=tmp_path / "none")
