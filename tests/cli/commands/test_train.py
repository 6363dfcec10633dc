"""What ``retentive train`` refuses before it opens a store."""

from pathlib import Path

import pytest
import torch

from laws.families import small_model
from retentive.checkpoints import save_model
from retentive.cli.main import main


@pytest.mark.parametrize(("family", "option"), [("rmt", "backbone"), ("retro", "backbone")])
def test_an_inner_family_is_that_of_the_saved_weights(
    family: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save_model(small_model(family, dtype=torch.float32), tmp_path / "saved")
    given = [
        "train",
        f"--store={tmp_path / 'store'}",
        f"--run={tmp_path / 'run'}",
        f"--init={tmp_path / 'saved'}",
        "--steps=1",
    ]
    with pytest.raises(SystemExit):
        main([*given, f"--{option}=retnet"])
    said = capsys.readouterr().err
    assert f"init holds a {family} over a transformer, so {option} must be that, but is 'retnet'" in said
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        main([*given, f"--{option}=transformer"])  # the same, said twice
    assert "there is no token store" in capsys.readouterr().err
