"""What cannot be is refused when a config is made, by name, rule and value."""

from pathlib import Path
from typing import Any

import pytest

from retentive.retrieval.encoders import ENCODERS, LexicalEncoder
from retentive.training.run.config import (
    CheckpointConfig,
    DataConfig,
    HardwareConfig,
    HeldOutConfig,
    MetricsConfig,
    NeighbourDataConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)

CASES: list[tuple[type[Any], dict[str, Any], str]] = [
    (DataConfig, {"window": 0}, r"data\.window must be at least 1 token, but is 0"),
    (DataConfig, {"batch_size": -1}, r"data\.batch_size must be at least 1 window, but is -1"),
    (DataConfig, {"windows_per_graph": 2}, r"data\.windows_per_graph must be 1 with data\.mode='packed'.*is 2"),
    (DataConfig, {"mode": "streamed", "windows_per_graph": 0}, r"windows_per_graph must be at least 1 window"),
    (OptimizerConfig, {"learning_rate": 0.0}, r"optimizer\.learning_rate must be above 0, but is 0\.0"),
    (OptimizerConfig, {"learning_rate": float("nan")}, r"optimizer\.learning_rate must be a finite number, but is nan"),
    (OptimizerConfig, {"epsilon": 0.0}, r"optimizer\.epsilon must be above 0"),
    (OptimizerConfig, {"beta1": 1.0}, r"optimizer\.beta1 must be at least 0 and below 1, but is 1\.0"),
    (OptimizerConfig, {"beta2": -0.1}, r"optimizer\.beta2 must be at least 0 and below 1, but is -0\.1"),
    (OptimizerConfig, {"weight_decay": -1.0}, r"optimizer\.weight_decay must be at least 0, but is -1\.0"),
    (OptimizerConfig, {"clip_norm": 0.0}, r"optimizer\.clip_norm must be above 0, but is 0\.0"),
    (ScheduleConfig, {"warmup_steps": -1}, r"schedule\.warmup_steps must be at least 0 steps, but is -1"),
    (ScheduleConfig, {"warmup_steps": 10, "decay_steps": 10}, r"schedule\.decay_steps must be above .*10, but is 10"),
    (ScheduleConfig, {"final_share": 1.5}, r"schedule\.final_share must be from 0 to 1, but is 1\.5"),
    (HeldOutConfig, {"every": 0}, r"held_out\.every must be at least 1 step, but is 0"),
    (HeldOutConfig, {"windows": 0}, r"held_out\.windows must be at least 1 window, but is 0"),
    (CheckpointConfig, {"every": 0}, r"checkpoints\.every must be at least 1 step, but is 0"),
    (CheckpointConfig, {"keep_last": 0}, r"checkpoints\.keep_last must be at least 1 checkpoint, but is 0"),
    (CheckpointConfig, {"weights": "best", "keep_best": False}, r"checkpoints\.keep_best must be true"),
    (HardwareConfig, {"sequence_parallel": 0}, r"hardware\.sequence_parallel must be at least 1 process, but is 0"),
    (HardwareConfig, {"sequence_parallel": 2, "compile": True}, r"compile must be false with .*sequence_parallel=2"),
    (HardwareConfig, {"accumulation": 0}, r"hardware\.accumulation must be at least 1 part, but is 0"),
    (
        NeighbourDataConfig,
        {"encoder": "bm25"},
        r"neighbours\.encoder must be 'lexical', 'dense' or .*, but is 'bm25'",
    ),
    (
        NeighbourDataConfig,
        {"encoder": "dense"},
        r"neighbours\.model must be a folder or hub id .*, but is None for 'dense'",
    ),
    (NeighbourDataConfig, {"model": "bert"}, r"neighbours\.model must be .* null for 'lexical', but is 'bert'"),
    (MetricsConfig, {"every": 0}, r"metrics\.every must be at least 1 step, but is 0"),
]


@pytest.mark.parametrize("model", [None, "a-model"])
def test_an_encoder_from_outside_is_taken_with_and_without_a_model(monkeypatch: pytest.MonkeyPatch, model: str | None):
    monkeypatch.setitem(ENCODERS, "mine", LexicalEncoder)
    assert NeighbourDataConfig(encoder="mine", model=model).encoder == "mine"


@pytest.mark.parametrize(("kind", "values", "message"), CASES)
def test_part_refuses(kind: type[Any], values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, r"steps must be at least 1 step, but is 0"),
        ({"steps": 50, "schedule": ScheduleConfig(warmup_steps=60)}, r"warmup_steps must be below the steps.*50, but"),
        ({"seed": -1}, r"seed must be from 0 to 2\*\*32 - 1, but is -1"),
        ({"steps": 50, "schedule": ScheduleConfig(warmup_steps=50)}, r"warmup_steps must be below the steps.*50, but"),
        (
            {"data": DataConfig(window=2), "hardware": HardwareConfig(sequence_parallel=3)},
            r"data\.window must be at least hardware\.sequence_parallel, 3, so that .*, but is 2",
        ),
        (
            {"held_out": HeldOutConfig(every=None), "checkpoints": CheckpointConfig(weights="best")},
            r"held_out\.every must be a number of steps for checkpoints\.weights='best'",
        ),
    ],
)
def test_whole_refuses(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"store": Path("store"), "run": Path("run"), "steps": 200, **values})


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (30, 3), (999, 99), (1000, 100), (100_000, 100)])
def test_the_warmup_follows_the_steps_of_a_run(steps: int, warmup: int):
    assert ScheduleConfig().warmup_until(steps) == warmup
    assert ScheduleConfig(warmup_steps=7).warmup_until(steps) == 7
    config = TrainConfig(store=Path("store"), run=Path("run"), steps=steps)  # refused by nothing
    assert config.schedule.warmup_until(config.decay_steps) == warmup


def test_help_says_what_a_precision_and_more_processes_change():
    assert "one process and on many, apart from rounding and dropout" in " ".join((DataConfig.__doc__ or "").split())
    assert "everything but the precision" in (HardwareConfig.__doc__ or "")


def test_every_option_is_described():
    for kind in (TrainConfig, *(case[0] for case in CASES)):
        for name in kind.__dataclass_fields__:
            assert f"\n        {name}: " in (kind.__doc__ or ""), f"{kind.__name__}.{name}"
