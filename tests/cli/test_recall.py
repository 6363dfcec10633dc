"""``retentive recall`` at a size that proves nothing but that it runs."""

import json
from pathlib import Path

import pytest

from retentive.checkpoints import load_model
from retentive.cli.main import main
from retentive.experiments.recall import run as recall_run
from retentive.experiments.recall import training as recall_training

OPTIONS = ["--lengths=[1024,2048]", "--trials=4"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch):
    """One step of one phase."""
    phases = (recall_training.Phase(32, (1,)),)
    monkeypatch.setattr(recall_training, "PHASES", phases)
    monkeypatch.setattr(recall_training, "MOST_STEPS", 1)
    monkeypatch.setattr(recall_run, "PHASES", phases)


def test_a_run_goes_on_with_the_next_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["recall", f"--output={tmp_path}", "--seeds=[3]", *OPTIONS])
    first = json.loads((tmp_path / "recall.json").read_text())
    main(["recall", f"--output={tmp_path}", "--seeds=[3,5]", *OPTIONS])
    printed = capsys.readouterr().out
    assert f"seed 3: read from {tmp_path / 'seed_3.json'}" in printed
    assert "0 of 1 stages learned" in printed
    both = json.loads((tmp_path / "recall.json").read_text())
    assert [found["seed"] for found in both["seeds"]] == [3, 5]
    assert both["seeds"][0] == first["seeds"][0]
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
    assert "| memory of another text | 5 |" in (tmp_path / "recall.md").read_text()
    assert load_model(tmp_path / "seed_5").config.memory_code == "sign"
    with pytest.raises(SystemExit):
        main(["recall", f"--output={tmp_path}", "--seeds=[3]", "--lengths=[1024,2048]", "--trials=8"])
    assert "output must hold no run of other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds=[]"], "seeds must be at least one, each another, but are []"),
        (["--seeds=[1,1]"], "seeds must be at least one, each another, but are [1, 1]"),
        (["--lengths=[2048,1024]"], "lengths must grow and be at least one, but are [2048, 1024]"),
        (["--lengths=[1000]"], "lengths must be two or more whole segments of 512 bytes, but one is 1000"),
        (["--trials=0"], "trials must be at least 1, but are 0"),
        (["--minutes=0"], "minutes must be above 0, but is 0.0"),
        (["--memory=none"], "memory must be a kind of memory, but is 'none'"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    with pytest.raises(SystemExit) as stopped:
        main(["recall", f"--output={tmp_path}", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
