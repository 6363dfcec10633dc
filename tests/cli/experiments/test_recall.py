"""``retentive recall`` at a size that proves nothing but that it runs."""

import json
from pathlib import Path

import pytest

from retentive.checkpoints import load_model
from retentive.cli.main import main
from retentive.experiments.recall import run as recall_run
from retentive.experiments.recall import training as recall_training


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch):
    """One step, after which the first of two phases is not learned."""
    phases = (recall_training.Phase(32, (1,)), recall_training.Phase(32, (1, 2)))
    monkeypatch.setattr(recall_training, "PHASES", phases)
    monkeypatch.setattr(recall_training, "MOST_STEPS", 1)
    monkeypatch.setattr(recall_run, "PHASES", phases)


def test_a_run_that_learns_nothing_reports_it_and_goes_on_with_more_seeds_and_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text.md").write_text("some text, and more of it\n" * 9)
    options = [f"--output={tmp_path / 'run'}", f"--corpus={tmp_path / 'text.md'}", "--trials=4"]
    tmp_path = tmp_path / "run"
    main(["recall", *options, "--seeds=[3]", "--lengths=[1024]"])
    first = json.loads((tmp_path / "recall.json").read_text())
    main(["recall", *options, "--seeds=[3,5]", "--lengths=[1024,2048]"])
    printed = capsys.readouterr().out
    assert f"seed 3: read from {tmp_path / 'seed_3.json'}" in printed
    assert printed.count("0 of 3 stages learned") == 2  # seed 3 was not trained again for another length
    both = json.loads((tmp_path / "recall.json").read_text())
    assert [found["seed"] for found in both["seeds"]] == [3, 5]
    assert [row for row in both["seeds"][0]["rows"] if row["length"] == 1024] == first["seeds"][0]["rows"]
    assert {row["length"] for row in both["seeds"][1]["rows"]} == {1024, 2048}
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
    assert "| memory of another text | 5 |" in (tmp_path / "recall.md").read_text()
    assert (tmp_path / "recall.md").read_text().count("| **no** |") == 2
    assert load_model(tmp_path / "seed_5").config.memory_code == "sign"
    main(["recall", *options, "--seeds=[3]", "--lengths=[1024]", "--minutes=16"])  # 15 where nothing is said
    printed = capsys.readouterr().out
    assert "seed 3: not learned in 15 minutes, so it is trained anew with 16" in printed
    assert "0 of 3 stages learned" in printed
    assert json.loads((tmp_path / "seed_3.json").read_text())["minutes"] == 16
    with pytest.raises(SystemExit):
        main(["recall", *options, "--seeds=[3]", "--lengths=[1024,2048]", "--trials=8"])
    assert "output must hold no run of other options or another text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds=[]"], "seeds must be at least one, each another, but are []"),
        (["--seeds=[1,1]"], "seeds must be at least one, each another, but are [1, 1]"),
        (["--lengths=[2048,1024]"], "lengths must grow and be at least one, but are [2048, 1024]"),
        (["--lengths=[1000]"], "lengths must be two or more whole segments of 512 bytes, but one is 1000"),
        (["--trials=0"], "trials must be at least 1, but is 0"),
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
