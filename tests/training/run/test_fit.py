"""What ``fit`` refuses before its first step."""

from typing import Any

import pytest
import torch

from laws.families import random_tokens, small_model
from retentive.data.batch import Batch
from retentive.training.run.fit import fit

pytestmark = pytest.mark.usefixtures("without_shape_checks")


def batches(step: int) -> Batch:
    tokens = random_tokens(2, 6, seed=step)
    return Batch(tokens=tokens, labels=tokens, starts=torch.zeros_like(tokens, dtype=torch.bool))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "precision must be 'float32' or 'bfloat16', but is 'float16'"),
        ({"carries_state": 1}, "carries_state must be a bool, but is an int"),
        ({"windows_per_graph": 2}, "carries_state must be True with windows_per_graph=2"),
        ({"optimizer": {}}, "optimizer must be an? OptimizerConfig or None, but is a dict"),
        ({"schedule": "cosine"}, "schedule must be a ScheduleConfig or None, but is a str"),
        ({"objective": "next_token"}, "objective must be an? ObjectiveConfig or None, but is a str"),
        ({"batches": {}}, "batches must be a function of a batch's number, but is a dict"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(options: dict[str, Any], message: str):
    model = small_model("retnet", dtype=torch.float32)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises((TypeError, ValueError), match=message):
        fit(model, **{"batches": batches, "steps": 1, **options})
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
