"""The check for GPUs runs on a CPU too, and a part that breaks leaves the others theirs."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check.parts import run_part
from benchmarks.gpu_check.retention import QUICK, compare_retention


def test_shapes_are_compared():
    found = compare_retention("cpu", quick=True, seconds=60)
    assert found["errors"] == []
    assert [row["shape"] for row in found["shapes"]] == list(QUICK)
    assert all(row["both_seconds"]["plain"] > 0 for row in found["shapes"])


def test_a_part_that_breaks_is_an_error_of_its_own():
    found = run_part("math:sqrt", "cpu", quick=True, seconds=60)
    assert found["errors"] == ["its process ended with 1"]


def test_parts_are_written_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(command.PARTS, "retention", ("math:sqrt", 60))
    output = tmp_path / "new" / "report.json"
    code = command.main(["--device", "cpu", "--quick", "--parts", "retention", "--output", str(output)])
    report = json.loads(output.read_text())
    assert code == 1
    assert report["machine"]["torch"] == torch.__version__
    assert report["parts"]["retention"]["errors"] == ["its process ended with 1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command.main([])
    assert "--device must be there, but torch sees no GPU here" in capsys.readouterr().err
