"""An objective from outside the library trains through `fit` and `train`, by its name in the public dictionary."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from laws.families import small_model
from retentive.cli.main import main
from retentive.data.tasks.synthetic import repeat_copy
from retentive.training.objectives import OBJECTIVES, Objective, ObjectiveConfig
from retentive.training.objectives.registry import objective_name
from retentive.training.run.config import TrainConfig
from retentive.training.run.fit import fit
from retentive.training.run.trainer import train
from retentive.training.step.config import OptimizerConfig
from training.conftest import asked_configs, step_lines


@dataclass(frozen=True, kw_only=True)
class SmoothedConfig(ObjectiveConfig):
    """Predict the next token, but be sure of nothing.

    Attributes:
        smoothing: Share of the wanted distribution that goes to all tokens alike.
    """

    smoothing: float = 0.1

    def build(self, vocabulary: Any, device: torch.device) -> Objective:
        return Smoothed(self.smoothing)


class Smoothed(Objective):
    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(self, model: Any, window: Any, state: Any) -> Any:
        output = model(window.tokens, state, starts=window.starts, **window.extra_inputs)
        loss = torch.nn.functional.cross_entropy(
            output.logits.flatten(0, 1),
            window.labels.flatten(),
            ignore_index=-100,
            reduction="sum",
            label_smoothing=self.smoothing,
        )
        return loss, window.num_labels, output.state


class Miscounting(Smoothed):
    def __call__(self, model: Any, window: Any, state: Any) -> Any:
        loss, count, state = super().__call__(model, window, state)
        return loss, count - 1, state


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "smoothed", SmoothedConfig)


def task(step: int) -> Any:
    return repeat_copy(step % 4, batch_size=8, length=4, num_symbols=6, seed=0)


def test_it_trains_through_fit():
    model = small_model("retnet", dtype=torch.float32)
    options: dict[str, Any] = {"steps": 60, "optimizer": OptimizerConfig(learning_rate=1e-2)}
    results = fit(model, task, objective=SmoothedConfig(smoothing=0.0), **options)
    assert results[-1].loss < 0.5 * results[0].loss
    smoothed = fit(small_model("retnet", dtype=torch.float32), task, objective=SmoothedConfig(smoothing=0.5), **options)
    assert smoothed[-1].loss > 2 * results[-1].loss


def test_it_trains_through_a_run_and_its_replay(store: Path, tmp_path: Path):
    streamed = {"mode": "streamed", "window": 8, "batch_size": 4, "windows_per_graph": 2}
    for way in ("plain", "replay"):
        asked = {
            "run": tmp_path / way,
            "data": streamed,
            "hardware": {"backpropagation": way},
            "model": {"dropout": 0.0},
        }
        model, config = asked_configs(store, {**asked, "objective": {"name": "smoothed", "smoothing": 0.2}})
        assert train(model, config).steps == 12
    kept = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert kept["training"]["objective"] == {"name": "smoothed", "smoothing": 0.2}
    plain, replayed = (step_lines(tmp_path / way) for way in ("plain", "replay"))
    assert [line[1] for line in replayed] == pytest.approx([line[1] for line in plain], rel=1e-4)
    assert all(line[2] is None for line in plain)  # no likelihood of the text, so no bits per byte


def test_it_trains_on_the_command_line(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sizes = ["--model.hidden-size=16", "--model.num-layers=1", "--model.num-heads=2"]
    data = ["--data.window=16", "--data.batch-size=2", "--steps=2", "--schedule.warmup-steps=1"]
    asked = ["--objective=smoothed", "--smoothed.smoothing=0.3"]
    main(["train", f"--store={store}", f"--run={tmp_path / 'run'}", *sizes, *data, *asked])
    assert "2 steps" in capsys.readouterr().out
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["training"]["objective"] == {"name": "smoothed", "smoothing": 0.3}


def test_names_are_those_of_the_dictionary(monkeypatch: pytest.MonkeyPatch):
    assert [objective_name(kind.__new__(kind)) for kind in OBJECTIVES.values()] == list(OBJECTIVES)
    monkeypatch.delitem(OBJECTIVES, "smoothed")
    with pytest.raises(ValueError, match=r"objective must be of a class in OBJECTIVES \(next_token, .* SmoothedConfig"):
        TrainConfig(store=Path("s"), run=Path("r"), steps=20, objective=SmoothedConfig())


def test_labels_are_counted_as_they_were_prepared():
    class Config(SmoothedConfig):
        def build(self, vocabulary: Any, device: torch.device) -> Objective:
            return Miscounting(self.smoothing)

    with pytest.raises(ValueError, match="must count the labels that its prepare left in the window, 32, but it cou"):
        fit(small_model("retnet"), task, steps=1, objective=Config())
