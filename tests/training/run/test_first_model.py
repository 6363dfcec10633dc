"""The weights that a run begins with: those of a saved model that fits."""

import shutil
from pathlib import Path

import pytest
import torch

from laws.families import small_model
from retentive.checkpoints.weights import load_model, save_model
from retentive.errors import MismatchError
from retentive.models.registry import build
from retentive.models.rmt import RecurrentMemoryConfig
from retentive.training.run.trainer import train
from training.conftest import asked_configs, run


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


@pytest.mark.parametrize("rank", [0, 2])
def test_a_memory_around_a_saved_model_learns_alone_or_with_lora(rank: int, store: Path, tmp_path: Path):
    teacher = store.parent / "teacher"
    base = load_model(teacher)
    memory = RecurrentMemoryConfig(backbone=base.config, segment_length=6, num_memory_tokens=2, causal_memory=True)

    def trained(folder: str, steps: int) -> Path | None:
        asked = {"run": tmp_path / folder, "steps": steps, "retrofit": teacher, "lora_rank": rank}
        asked |= {"schedule": {"warmup_steps": 1, "decay_steps": 2}, "optimizer": {"learning_rate": 0.1}}
        return train(memory, asked_configs(store, asked)[1]).model

    whole = load_model(trained("whole", 2))
    weights = whole.state_dict()
    assert weights.keys() == build(memory).state_dict().keys()
    if rank:
        trained("halves", 1)
        halves = load_model(trained("halves", 2)).state_dict()
        assert all(torch.equal(halves[name], weight) for name, weight in weights.items())
    changed = {name for name, weight in base.state_dict().items() if not torch.equal(weights[name], weight)}
    mixers = {name for name in base.state_dict() if "mixer.input_proj.weight" in name or "mixer.output_proj" in name}
    assert changed == (mixers if rank else set())
    assert not any(weight.requires_grad for weight in whole.decoder.parameters())
    assert all(weight.requires_grad for weight in whole.memory.parameters())


def test_lora_alone_changes_a_saved_model(store: Path, tmp_path: Path):
    teacher = store.parent / "teacher"
    asked = {"model": {"dropout": 0.0}, "init": teacher, "lora_rank": 1, "steps": 2, "schedule": {"warmup_steps": 1}}
    report = run(store, tmp_path, **asked, optimizer={"learning_rate": 0.1})
    assert "the saved backbone holds LoRA of rank 1" in "".join(report.lines())
    first, last = load_model(teacher), load_model(report.model)
    assert all(weight.requires_grad for weight in last.parameters())
    for name, weight in first.state_dict().items():
        change = last.state_dict()[name] - weight
        rank = torch.linalg.matrix_rank(change, rtol=1e-3) if change.dim() == 2 else change.count_nonzero()
        assert rank == ("mixer." in name and name.endswith("proj.weight")), name


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
    with pytest.raises(ValueError, match="lora_rank must be 0 for new weights, of which nothing is to be kept"):
        run(store, tmp_path, lora_rank=2)
    with pytest.raises(ValueError, match=r"lora_rank must be 0 with hardware\.strategy='fsdp'"):
        run(store, tmp_path, init=teacher, lora_rank=2, hardware={"strategy": "fsdp"})
    with pytest.raises(ValueError, match="retrofit must be null for a retnet: a RETRO or a recurrent memory alone"):
        run(store, tmp_path, retrofit=teacher)
    with pytest.raises(ValueError, match="init and retrofit both say which weights the run begins with"):
        run(store, tmp_path, init=teacher, retrofit=teacher)
    with pytest.raises(FileNotFoundError, match="must be the folder of a saved model"):
        run(store, tmp_path, init=tmp_path / "none")
