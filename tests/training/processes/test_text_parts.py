"""Processes that read parts of one text compute what one process computes that reads all of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from laws.families import small_model
from models.test_protocol import AverageConfig, MovingAverage
from retentive.training.processes.text_parts import check_reads_parts, read_in_parts
from training.conftest import outputs_of_group
from training.processes.parts_process import CASES, CUTS

SCRIPT = Path(__file__).parent / "parts_process.py"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What three processes say, of groups of two and of three of them."""
    meeting = tmp_path_factory.mktemp("group") / "store"
    said = outputs_of_group(SCRIPT, max(CUTS), str(meeting))
    return [json.loads(line) for output in said for line in output.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(("count", "model", "text"), CASES)
def test_outputs_and_gradients_are_those_of_one_process(lines: list[dict[str, Any]], count: int, model: str, text: str):
    (found,) = (line for line in lines if line.get("case") == [count, model, text])
    assert found["outputs"] < 1e-12
    assert found["gradients"] < 1e-12


def test_processes_must_read_the_same_rows(lines: list[dict[str, Any]]):
    refusals = [line["refusal"] for line in lines if "refusal" in line]
    assert len(refusals) == 3
    assert all("as many rows in every process" in refusal and "[1, 2, 3]" in refusal for refusal in refusals)


@pytest.mark.parametrize(
    ("family", "why"), [("rmt", "from segment to segment"), ("retro", "across the borders of parts")]
)
def test_families_that_read_in_order_are_refused(family: str, why: str):
    with pytest.raises(ValueError, match=f"parts of a text at the same time, but is of '{family}': .*{why}.*columns"):
        check_reads_parts(small_model(family))


def test_a_mixer_that_does_not_say_that_it_reads_parts_is_refused():
    model = small_model("retnet")
    model.decoder.blocks[1].mixer = nn.Identity()
    with pytest.raises(ValueError, match="every mixer must read texts in parts, but Identity does not say"):
        check_reads_parts(model)


def test_a_model_from_elsewhere_is_refused():
    with pytest.raises(
        ValueError, match="model must be of a family of this library to read a text in parts, but is a "
    ):
        read_in_parts(MovingAverage(AverageConfig(vocab_size=8, hidden_size=4)), None)
