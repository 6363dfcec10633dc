"""Own text among the neighbours: held until it is copied, then let go; the controls that tell whether it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from laws.families import small_config
from retentive.data.batch import Batch
from retentive.data.neighbours.batches import RetrievalBatches
from retentive.data.token_store import TokenStore
from retentive.models.registry import build
from retentive.models.retro import retro_over, retrofit
from retentive.training.metrics.log import read_metrics
from retentive.training.processes.processes import alone
from retentive.training.run import copying
from retentive.training.run.copying import Copying, NeighbourControls, falling_from
from retentive.training.run.sources import training_batches
from retentive.training.run.trainer import train
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.learner import Learner
from training.conftest import asked_configs

RETRO: dict[str, Any] = {"model": {"family": "retro"}}


def test_held_out_losses_are_told_beside_three_controls(store: Path, tmp_path: Path, capsys):
    train(*asked_configs(store, {"run": tmp_path, **RETRO}))
    for line in read_metrics(tmp_path / "metrics.jsonl", "held_out"):
        losses = [line[name] for name in ("loss", "without_neighbours", "others_neighbours", "own_text")]
        assert len(set(losses)) == 4, "each is read beside something else"
    said = capsys.readouterr().err
    assert "without neighbours" in said
    assert "with own text (the copying control)" in said


def test_training_warns_while_own_text_gains_nothing():
    nothing = NeighbourControls(without_neighbours=2.0, others_neighbours=2.0, own_text=1.99)
    copies = NeighbourControls(without_neighbours=2.0, others_neighbours=2.1, own_text=1.5)
    assert "warning: own text as a neighbour saves nothing" in nothing.line()
    assert "at least 2 layers" in nothing.line()
    assert copies.copied == 0.25
    assert "warning" not in copies.line()


@pytest.mark.parametrize(("copied", "released"), [(-9.0, 2), (9.0, 6)])
def test_own_text_is_let_go_once_it_is_copied_or_at_the_limit(
    store: Path, tmp_path: Path, capsys, monkeypatch, copied: float, released: int
):
    monkeypatch.setattr(copying, "COPIED", copied)
    monkeypatch.setattr(copying, "CHECK_EVERY", 2)
    train(*asked_configs(store, {"run": tmp_path, **RETRO, "neighbours": {"own_text_steps": 6}}))
    said = capsys.readouterr().err
    assert f"step {released}: " in said
    assert ("it is copied" in said) == (copied < 0)
    assert ("it goes all the same" in said) == (copied > 0)


def test_where_nothing_is_held_out_text_of_training_shows_it(store: Path, tmp_path: Path):
    model, config = asked_configs(store, {"run": tmp_path, **RETRO, "neighbours": {"own_text_steps": 6}})
    train(model, config)  # which finds the neighbours
    opened = TokenStore.open(store)
    held = opened.manifest.splits["heldout"]
    opened.manifest = replace(opened.manifest, splits={**opened.manifest.splits, "heldout": replace(held, documents=0)})
    assert Copying(model, opened, replace(config, held_out=replace(config.held_out, every=None)), 1)
    source = training_batches(model, config, opened)
    falling = falling_from(source, 4)
    assert isinstance(falling, RetrievalBatches)
    assert falling.own_text is not None
    assert [falling.own_text.share(step) for step in (0, 3, 4, 6, 8)] == [1, 1, 1, 0.5, 0]


def test_a_fitted_model_trains_where_no_chunk_is_whole():
    torch.manual_seed(0)
    backbone = build(small_config("transformer", vocab_size=257))
    model = retrofit(backbone, replace(retro_over(backbone.config), chunk_size=64))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = OptimizerConfig(weight_decay=0.0)
    learner = Learner(
        model,
        optimizer=options,
        schedule=ScheduleConfig(),
        decay_steps=10,
        seed=0,
        carries_state=False,
        processes=alone(),
    )
    tokens = torch.randint(0, 257, (2, 16))
    batch = Batch(tokens=tokens, labels=tokens, starts=torch.zeros_like(tokens, dtype=torch.bool))
    result = learner.step(0, [[batch]])
    assert result.gradient_norm == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
