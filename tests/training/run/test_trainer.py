"""A run from a token store to a model: what it keeps, how it goes on, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from laws.families import small_model
from retentive.checkpoints.weights import load_model, save_model
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.token_store import TokenStore
from retentive.errors import DamagedFileError, DivergedError, MismatchError
from retentive.files import only_writer
from retentive.models.registry import build
from retentive.text.loading import load_tokenizer
from retentive.training.metrics.log import read_metrics
from retentive.training.processes.processes import alone
from retentive.training.run.checkpoint_folder import check_whole, checkpoint_folders, checkpoint_name
from retentive.training.run.run_state import read_weights
from training.conftest import STREAMED, asked_configs, final_tensors, run, step_lines

MODES: dict[str, dict[str, Any]] = {
    "packed": {},
    "packed in parts": {"hardware": {"accumulation": 2}},
    "streamed": {"data": STREAMED},
    "streamed in parts": {"data": STREAMED, "hardware": {"accumulation": 2}},
    "streamed attention": {"data": STREAMED, "model": {"family": "transformer", "window": 6}},
    "streamed recurrent memory": {"data": {**STREAMED, "window": 7}, "model": {"family": "rmt"}},
    "streamed masked tokens": {
        "data": {**STREAMED, "window": 7},
        "model": {"family": "rmt", "bidirectional": True},
        "objective": {"name": "masked_tokens", "share": 0.3},
        "hardware": {"accumulation": 2},
    },
    "streamed distillation": {"data": STREAMED, "objective": {"name": "distillation", "temperature": 2.0}},
}


@pytest.mark.parametrize("mode", MODES)
def test_two_halves_are_one_run_bit_for_bit(store: Path, tmp_path: Path, mode: str):
    run(store, tmp_path / "whole", **MODES[mode])
    first = run(store, tmp_path / "halves", steps=6, **MODES[mode])
    assert (first.steps, first.resumed_at) == (6, None)
    second = run(store, tmp_path / "halves", **MODES[mode])
    assert (second.steps, second.resumed_at, second.stopped) == (12, 6, False)
    whole, halves = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "halves")
    assert whole.keys() == halves.keys()
    assert any(name.startswith("carried.") for name in whole) == mode.startswith("streamed")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    assert step_lines(tmp_path / "whole") == step_lines(tmp_path / "halves")


def test_the_time_of_earlier_processes_is_counted(store: Path, tmp_path: Path):
    first = run(store, tmp_path, steps=3, schedule={"warmup_steps": 1})
    again = run(store, tmp_path, steps=3, schedule={"warmup_steps": 1})
    assert again.resumed_at == 3
    assert again.training_seconds == first.training_seconds > 0


def test_seed_and_order_of_data_matter(store: Path, tmp_path: Path):
    run(store, tmp_path / "a", steps=3, schedule={"warmup_steps": 1})
    run(store, tmp_path / "b", steps=3, schedule={"warmup_steps": 1}, seed=1)
    assert step_lines(tmp_path / "a") != step_lines(tmp_path / "b")


def test_the_loss_goes_down_and_the_model_is_saved(store: Path, tmp_path: Path):
    report = run(store, tmp_path, steps=80, schedule={"warmup_steps": 8}, optimizer={"learning_rate": 1e-2})
    lines = read_metrics(tmp_path / "metrics.jsonl", "train")
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert lines[-1]["tokens_per_second"] > 0
    assert lines[-1]["matrix_speed_share"] > 0
    assert 0 < lines[-1]["data_wait_share"] < 1
    # A byte has one token here, so the two scales are one, up to the end of each document, which has no bytes.
    assert lines[-1]["bits_per_byte"] == pytest.approx(lines[-1]["loss"] / 0.6931, rel=0.1)
    assert report.model == tmp_path / "model"
    model = load_model(report.model)
    assert load_tokenizer(report.model).fingerprint() == TokenStore.open(store).tokenizer.fingerprint()
    final = final_tensors(tmp_path)
    assert all(torch.equal(final[f"model.{name}"], value) for name, value in model.state_dict().items())
    assert any("held-out loss" in line for line in report.lines())


def test_a_finished_run_has_nothing_to_do(store: Path, tmp_path: Path):
    run(store, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "model")
    report = run(store, tmp_path)
    assert (report.steps, report.resumed_at, report.loss) == (12, 12, None)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert load_model(tmp_path / "model") is not None


def test_the_resolved_config_is_kept(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=4)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["model"]["family"] == "retnet"
    assert kept["training"]["steps"] == 4
    assert kept["training"]["optimizer"]["beta2"] == 0.95
    assert kept["data"]["tokens_sha256"] == TokenStore.open(store).manifest.files["train-tokens"].sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"learning_rate": 0.5}}, r"optimizer\.learning_rate was 0\.001 and is 0\.5"),
        ({"seed": 4}, r"seed was 0 and is 4"),
        ({"steps": 2, "schedule": {"warmup_steps": 1, "decay_steps": 12}}, r"schedule\.warmup_steps was 3 and is 1"),
        ({"data": {"window": 8, "batch_size": 4}}, r"data\.window was 16 and is 8"),
        ({"model": {"num_heads": 4}}, r"model\.num_heads was 2 and is 4"),
        ({"hardware": {"precision": "bfloat16"}}, r"hardware\.precision was 'float32' and is 'bfloat16'"),
    ],
)
def test_another_config_is_refused_by_name(store: Path, tmp_path: Path, changes: dict[str, Any], message: str):
    run(store, tmp_path, steps=8)
    kept = (tmp_path / "config.json").read_bytes()
    with pytest.raises(MismatchError, match=rf"begun with another configuration: .*{message}.*another folder as run"):
        run(store, tmp_path, **{"steps": 8, **changes})
    assert (tmp_path / "config.json").read_bytes() == kept


def test_a_run_does_not_become_shorter(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=8)
    kept = (tmp_path / "config.json").read_bytes()
    with pytest.raises(MismatchError, match=r"steps must be at least the 8 that run .* but is 4: give steps=8 or more"):
        run(store, tmp_path, steps=4)
    assert (tmp_path / "config.json").read_bytes() == kept
    with pytest.raises(MismatchError, match=r"another configuration: seed was 0 and is 1; steps was 8 and is 4\. Go"):
        run(store, tmp_path, steps=4, seed=1)


def test_what_changes_nothing_learned_may_change(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=6)
    moved = tmp_path / "moved"
    shutil.copytree(store, moved)
    report = run(
        moved,
        tmp_path,
        hardware={"accumulation": 2, "device": "cpu", "strategy": "fsdp", "precision": "float32"},
        checkpoints={"every": 5, "keep_last": 1},
        held_out={"every": None},
        metrics={"every": 2},
    )
    assert (report.steps, report.resumed_at) == (12, 6)


def test_other_text_under_the_same_name_is_refused(store: Path, tmp_path: Path):
    run(store, tmp_path / "run", steps=6)
    source = tmp_path / "other"
    source.mkdir()
    for number in range(9):
        (source / f"{number}.txt").write_text("quite another text, told again and again. " * number)
    prepare(PrepareConfig(source=source, output=tmp_path / "store", heldout_fraction=0.3))
    with pytest.raises(MismatchError, match=r"data\.tokens_sha256 was"):
        run(tmp_path / "store", tmp_path / "run")


def test_a_run_without_a_checkpoint_begins_anew_with_any_config(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=2, schedule={"warmup_steps": 1})
    shutil.rmtree(tmp_path / "checkpoints")
    assert run(store, tmp_path, steps=3, seed=1, schedule={"warmup_steps": 1}).resumed_at is None
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl", "train")] == [1, 2, 3]


def test_a_lost_config_is_refused(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=6)
    (tmp_path / "config.json").unlink()
    with pytest.raises(DamagedFileError, match=r"config\.json is missing, though there are checkpoints beside it"):
        run(store, tmp_path)


def test_model_and_tokens_must_fit(store: Path, tmp_path: Path):
    with pytest.raises(
        MismatchError, match=r"model\.vocab_size must be at least that of the tokenizer 'bytes'.* 257, but is 200"
    ):
        run(store, tmp_path, model={"vocab_size": 200})


def test_the_objective_must_fit_the_model(store: Path, tmp_path: Path):
    encoder = {"family": "rmt", "bidirectional": True}
    with pytest.raises(ValueError, match="objective must be 'masked_tokens' for an encoder"):
        run(store, tmp_path, model=encoder)
    with pytest.raises(ValueError, match="objective must be 'next_token' for a model that reads from left to right"):
        run(store, tmp_path, objective={"name": "masked_tokens"})
    with pytest.raises(ValueError, match="model must read from left to right for objective 'distillation'"):
        run(store, tmp_path, model=encoder, objective={"name": "distillation"})
    assert not list(tmp_path.iterdir())


def test_a_run_keeps_its_objective(store: Path, tmp_path: Path):
    asked = {"objective": {"name": "distillation", "temperature": 2.0}, "steps": 4}
    report = run(store, tmp_path / "run", **asked)
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["training"]["objective"]["name"] == "distillation"
    assert report.held_out is not None
    assert report.held_out.bits_per_byte is None  # a divergence from the teacher is no likelihood of the text
    with pytest.raises(MismatchError, match=r"objective\.temperature was 2\.0 and is 3\.0"):
        run(store, tmp_path / "run", **{**asked, "objective": {"name": "distillation", "temperature": 3.0}})
    with pytest.raises(MismatchError, match=r"objective\.name was 'distillation' and is 'next_token'"):
        run(store, tmp_path / "run", steps=4)
    moved = shutil.copytree(store.parent / "teacher", tmp_path / "moved")
    again = run(store, tmp_path / "run", **{**asked, "objective": {**asked["objective"], "teacher": moved}})
    assert again.resumed_at == 4
    other = small_model("retnet", seed=1, vocab_size=257)
    save_model(other, tmp_path / "other", TokenStore.open(store).tokenizer)
    with pytest.raises(MismatchError, match=r"data\.objective\.teacher was .* and is"):
        run(store, tmp_path / "run", **{**asked, "objective": {**asked["objective"], "teacher": tmp_path / "other"}})


def test_a_finished_run_goes_on_with_more_steps(store: Path, tmp_path: Path):
    """Its learning rate stays at the lowest, as if ``decay_steps`` had been what its steps were."""
    asked: dict[str, Any] = {"schedule": {"warmup_steps": 3}}
    run(store, tmp_path / "a", steps=6, **asked)
    for steps in (9, 12):
        report = run(store, tmp_path / "a", steps=steps, **asked)
        assert (report.resumed_at, report.steps) == (steps - 3, steps)
    run(store, tmp_path / "b", steps=12, schedule={"warmup_steps": 3, "decay_steps": 6})
    a, b = final_tensors(tmp_path / "a"), final_tensors(tmp_path / "b")
    assert all(torch.equal(a[name], value) for name, value in b.items())
    assert step_lines(tmp_path / "a") == step_lines(tmp_path / "b")
    with pytest.raises(MismatchError, match=r"schedule\.decay_steps was 6 and is 9"):
        run(store, tmp_path / "a", steps=12, schedule={"warmup_steps": 3, "decay_steps": 9})


def test_a_run_that_has_not_finished_keeps_its_steps(store: Path, tmp_path: Path):
    asked: dict[str, Any] = {"schedule": {"warmup_steps": 3}}
    run(store, tmp_path, steps=8, **asked)
    shutil.rmtree(checkpoint_folders(tmp_path / "checkpoints")[-1])  # as if it had been killed after step 4
    with pytest.raises(MismatchError, match=r"steps was 8 and is 12.*, finish the run before it is given more"):
        run(store, tmp_path, steps=12, **asked)
    explicit = {"warmup_steps": 3, "decay_steps": 8}
    assert run(store, tmp_path, steps=12, schedule=explicit).resumed_at == 4


def test_a_run_of_a_version_without_objectives_goes_on(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=6)
    kept = json.loads((tmp_path / "config.json").read_text())
    del kept["training"]["objective"], kept["data"]["objective"]
    (tmp_path / "config.json").write_text(json.dumps(kept))
    assert run(store, tmp_path).resumed_at == 6


def test_a_window_cannot_be_longer_than_the_text(store: Path, tmp_path: Path):
    tokens = TokenStore.open(store).manifest.splits["train"].tokens
    with pytest.raises(ValueError, match=rf"data\.window must be at most the {tokens:,} tokens .* but is 10,000,000;"):
        run(store, tmp_path, data={"window": 10_000_000, "batch_size": 4})
    run(store, tmp_path, steps=1, schedule={"warmup_steps": 0}, data={"window": tokens, "batch_size": 1})


def test_the_folder_of_a_run_is_its_own(store: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"run must be another folder than store, but both are"):
        run(store, store)
    for inside in ("checkpoints", "model"):  # which is made at the end
        (tmp_path / inside).write_text("")
        with pytest.raises(ValueError, match=rf"run must be a folder, but .*{inside} is a file: choose another name"):
            run(store, tmp_path)
        (tmp_path / inside).unlink()


def test_tokens_that_were_altered_are_not_trained_on(store: Path, tmp_path: Path):
    damaged = tmp_path / "store"
    shutil.copytree(store, damaged)
    path = damaged / TokenStore.open(damaged).manifest.files["train-tokens"].path
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"{path.name}: the content differs from its checksum; prepare the"):
        run(damaged, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_must_be_divisible(store: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of 3, the processes \(1\) times .* is 4"):
        run(store, tmp_path, hardware={"accumulation": 3})


def test_two_runs_do_not_share_a_folder(store: Path, tmp_path: Path):
    with only_writer(tmp_path), pytest.raises(BlockingIOError, match=r"another process is writing to this folder"):
        run(store, tmp_path)


def test_divergence_keeps_the_last_good_checkpoint(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=6)
    checkpoint = checkpoint_folders(tmp_path / "checkpoints")[-1]
    weights = final_tensors(tmp_path)
    broken = {"learning_rate": 1e30, "clip_norm": None}
    kept = json.loads((tmp_path / "config.json").read_text())
    kept["training"]["optimizer"].update(broken)
    (tmp_path / "config.json").write_text(json.dumps(kept))  # as if it had been begun so
    expected = r"diverged at step \d+: the loss is .*The last good checkpoint is kept: .*step-00000006\. Try a lower"
    with pytest.raises(DivergedError, match=expected):
        run(store, tmp_path, optimizer=broken, checkpoints={"every": 100}, held_out={"every": None})
    assert checkpoint_folders(tmp_path / "checkpoints")[-1] == checkpoint
    check_whole(checkpoint, alone())
    assert all(torch.equal(weights[name], value) for name, value in final_tensors(tmp_path).items())


def test_a_damaged_checkpoint_is_not_gone_on_from(store: Path, tmp_path: Path):
    run(store, tmp_path, steps=8)
    newest = checkpoint_folders(tmp_path / "checkpoints")[-1]
    file = next(newest.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedFileError, match=rf"{file} has 100 bytes .* Delete the folder {newest} to go on from"):
        run(store, tmp_path)
    shutil.rmtree(newest)
    assert run(store, tmp_path).resumed_at == 4


def test_the_best_is_kept_and_can_be_the_model(store: Path, tmp_path: Path):
    # A learning rate that rises until the loss comes back up.
    report = run(
        store,
        tmp_path,
        steps=40,
        optimizer={"learning_rate": 20.0},
        schedule={"warmup_steps": 39},
        checkpoints={"every": 100, "keep_last": 1, "weights": "best"},
    )
    evaluations = read_metrics(tmp_path / "metrics.jsonl", "held_out")
    best = min(evaluations, key=lambda line: line["loss"])
    assert (report.best_step, report.best_loss) == (best["step"], best["loss"])
    assert report.best_step is not None
    assert report.best_step < 40
    names = [path.name for path in checkpoint_folders(tmp_path / "checkpoints")]
    assert names == [checkpoint_name(report.best_step), checkpoint_name(40)]
    model, _ = asked_configs(store, {"run": tmp_path})
    expected = build(model)
    read_weights(tmp_path / "checkpoints" / names[0], expected)
    assert report.model is not None
    saved = load_model(report.model).state_dict()
    assert all(torch.equal(saved[name], value) for name, value in expected.state_dict().items())


def test_more_workers_than_the_cores_can_serve_are_refused_before_anything_is_written(store: Path, tmp_path: Path):
    rule = r"hardware\.workers must be at most \d+ processes \(4 for each of the \d+ cores\), but is 100,000"
    with pytest.raises(ValueError, match=rule):
        run(store, tmp_path / "run", hardware={"workers": 100_000})
    assert not (tmp_path / "run").exists()
