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
    for name in ("--task=copy", "--batch_size=5", "--model.memory_noise=0.1"):
        with pytest.raises(SystemExit):
            main(["curriculum", *options, name, "--steps=4"])
        assert "folder must hold no curriculum of other options" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["curriculum", f"--run={tmp_path}", "--task=text"])
    assert "store goes with task='text' and with nothing else, but task is 'text'" in capsys.readouterr().err


def test_prepared_text_is_trained_on_and_no_longer_text_than_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text").mkdir()
    for number in range(20):
        (tmp_path / "text" / f"{number}.txt").write_text(f"words of text {number}")
    main(["prepare", f"--source={tmp_path / 'text'}", f"--output={tmp_path / 'store'}", "--held_out=1*.txt"])
    options = [f"--run={tmp_path / 'run'}", "--task=text", f"--store={tmp_path / 'store'}", "--batch_size=2", *SMALL]
    held_out = ["--curriculum.held_out_batches=1", "--curriculum.learned_below=100", "--curriculum.patience=1"]
    main(["curriculum", *options, *held_out, "--curriculum.stages=[1,2]", "--steps=9"])
    assert "2 segments: learned after" in capsys.readouterr().out
    for more, split in (([], "train"), (held_out, "heldout")):
        stages = "--curriculum.stages=[1,900]" if not more else "--curriculum.stages=[1,30]"
        with pytest.raises(SystemExit):
            main(["curriculum", *options, *more, stages, f"--run={tmp_path / 'longer'}"])
        assert f"curriculum.stages must fit the store's {split} text" in capsys.readouterr().err
