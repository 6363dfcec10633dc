"""The loss on held-out text: each window is read once, by any number of processes."""

from pathlib import Path

import pytest
import torch

from retentive.data.packing import PackedWindows
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.token_store import TokenStore
from retentive.models.registry import build
from retentive.training.processes.processes import alone
from retentive.training.run.held_out import HeldOutWindows
from retentive.training.step.learner import Learner
from training.conftest import asked_configs, run


def test_without_held_out_text_evaluation_must_be_off(store: Path, tmp_path: Path):
    source = tmp_path / "text"
    source.mkdir()
    (source / "one.txt").write_text("a text that is trained on " * 20)
    prepare(PrepareConfig(source=source, output=tmp_path / "store", heldout_fraction=0.0))
    with pytest.raises(ValueError, match=r"'heldout'.* has no document.*without evaluation: held_out\.every=null"):
        run(tmp_path / "store", tmp_path / "run")
    report = run(tmp_path / "store", tmp_path / "run", held_out={"every": None})
    assert (report.held_out, report.best_step) == (None, None)


@pytest.mark.parametrize(("windows", "parts"), [(6, 1), (6, 2), (7, 2), (40, 4)])
def test_each_held_out_window_is_read_once(store: Path, tmp_path: Path, windows: int, parts: int):
    model, config = asked_configs(store, {"run": tmp_path, "held_out": {"windows": windows}})
    opened = TokenStore.open(store)
    learner = Learner(
        build(model),
        optimizer=config.optimizer,
        schedule=config.schedule,
        decay_steps=10,
        seed=0,
        carries_state=False,
        processes=alone(),
    )
    found = HeldOutWindows(model, opened, config, parts).evaluate(learner)
    source = PackedWindows(opened, "heldout", 16, 1, config.seed)
    nats = labels = num_bytes = 0.0
    with torch.no_grad():
        for number in range(min(windows, source.windows_per_epoch)):
            batch = source.batch(number)
            count = int((batch.labels != -100).sum())
            loss = learner.model.eval()(batch.tokens, labels=batch.labels, starts=batch.starts).loss
            nats, labels = nats + float(loss) * count, labels + count
            num_bytes += int(((batch.labels != -100) & (batch.labels != 256)).sum())
    assert found.loss == pytest.approx(nats / labels, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / 0.69314718 / num_bytes, rel=1e-5)
    assert source.windows_per_epoch > 7
