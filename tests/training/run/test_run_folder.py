"""The config of a run: what was written under former names is that of a run that goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from retentive.data.token_store import TokenStore
from retentive.errors import DamagedFileError, MismatchError
from retentive.models.registry import config_to_dict
from retentive.training.curriculum.folder import CurriculumFolder
from retentive.training.run.checkpoint_folder import checkpoint_name
from retentive.training.run.run_folder import describe_run, settle_config
from training.conftest import asked_configs


def test_a_model_described_by_names_of_before_is_the_same_model(store: Path, tmp_path: Path):
    model, config = asked_configs(store, {"run": tmp_path, "model": {"family": "retro"}})
    described = describe_run(model, config, TokenStore.open(store))
    assert described["model"]["backbone"]["family"] == "transformer"
    before = {("base" if name == "backbone" else name): value for name, value in described["model"].items()}
    del before["chunk_offset"]  # as if the option had come since; it is at its default
    described["model"]["chunk_offset"] = 0
    (tmp_path / "checkpoints" / checkpoint_name(2)).mkdir(parents=True)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**described, "model": {**before, "chunk_size": 5}}))
    with pytest.raises(MismatchError, match=r"another configuration: model\.chunk_size was 5 and is 4\. Go on"):
        settle_config(described, tmp_path)
    path.write_text(json.dumps({**described, "model": before}))
    settle_config(described, tmp_path)
    assert json.loads(path.read_text()) == described
    path.write_text(json.dumps({**described, "model": None}))
    with pytest.raises(DamagedFileError, match=r"config\.json lacks a part of what stands in such a file"):
        settle_config(described, tmp_path)


def test_a_curriculum_of_such_a_model_goes_on_too(store: Path, tmp_path: Path):
    model, _ = asked_configs(store, {"run": tmp_path, "model": {"family": "retro"}})
    options: dict[str, Any] = {"model": config_to_dict(model), "segment_length": 3}
    before = {("base" if name == "backbone" else name): value for name, value in options["model"].items()}
    (tmp_path / "curriculum.json").write_text(json.dumps({**options, "model": before}))
    CurriculumFolder(tmp_path, options)
    with pytest.raises(MismatchError, match="segment_length is 3, not 4"):
        CurriculumFolder(tmp_path, {**options, "segment_length": 4})
    (tmp_path / "curriculum.json").write_text(json.dumps({**options, "model": {**before, "chunk_size": 5}}))
    with pytest.raises(MismatchError, match="'chunk_size': 5"):
        CurriculumFolder(tmp_path, options)
