"""``retentive curriculum`` at a size that proves nothing but that it runs."""

from pathlib import Path

import pytest

from retentive.checkpoints import load_model
from retentive.cli.main import main

SMALL = [
    "--model.segment_length=4",
    "--model.num_memory_tokens=2",
    "--model.backbone.hidden_size=16",
    "--model.backbone.num_layers=1",
]


def test_a_task_is_trained_on_and_more_steps_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = [
        f"--run={tmp_path}",
        "--task=pairs",
        "--symbols=3",
        "--curriculum.stages=[1,2]",
        "--batch_size=4",
        *SMALL,
    ]
    main(["curriculum", *options, "--steps=2", "--backpropagation=replay"])
    assert "not learned: 1, 2 segments; more --steps go on from here" in capsys.readouterr().out
    main(["curriculum", *options, "--steps=3", "--backpropagation=replay"])
    assert f"model: {tmp_path / 'model'}, after 3 steps" in capsys.readouterr().out
    assert load_model(tmp_path / "model").vocab_size == 8
    with pytest.raises(SystemExit):
        main(["curriculum", f"--run={tmp_path}", "--task=text"])
    assert "store goes with task='text' and with nothing else, but task is 'text'" in capsys.readouterr().err
