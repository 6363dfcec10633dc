"""The law of training: plain, recomputing and replaying back-propagation give the same step, for every objective."""

from pathlib import Path
from typing import Any

import pytest
import torch

from laws.families import VOCAB, beside, cases, small_model
from retentive.data.batch import Batch
from retentive.models.base import DecoderModel
from retentive.state import named_tensors
from retentive.training.objectives.distillation import Distillation, DistillationConfig
from retentive.training.objectives.masked_tokens import MaskedTokensConfig
from retentive.training.objectives.next_token import NextToken
from retentive.training.objectives.protocol import Objective, Vocabulary
from retentive.training.processes.processes import alone
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.learner import Learner

MASKED = MaskedTokensConfig(mask_token=0, share=0.5).build(Vocabulary(size=VOCAB), torch.device("cpu"))
ENCODERS: list[tuple[str, dict[str, Any]]] = [
    ("rmt", {"bidirectional": True}),
    ("rmt", {"bidirectional": True, "xl_length": 3}),
]


def distilled() -> Objective:
    return Distillation(
        small_model("rmt", seed=5), DistillationConfig(teacher=Path("teacher"), temperature=2.0, text_share=0.1)
    )


CASES = [
    *((NextToken, family, changes) for family, changes in cases()),
    *((lambda: MASKED, family, changes) for family, changes in ENCODERS),
    *((distilled, family, changes) for family, changes in cases()),
]


def gradients_of(model: DecoderModel, objective: Objective, way: Any) -> tuple[float, dict[str, torch.Tensor], Any]:
    """Loss, gradients and state of a step over two parts of three windows each."""
    learner = Learner(
        model,
        optimizer=OptimizerConfig(learning_rate=1e-30, weight_decay=0.0, clip_norm=None),
        schedule=ScheduleConfig(warmup_steps=0),
        decay_steps=10,
        seed=3,
        carries_state=model.state_is_bounded,
        processes=alone(),
        objective=objective,
        backpropagation=way,
    )
    parts = []
    for part in range(2):
        tokens = torch.randint(0, VOCAB, (2, 19), generator=torch.Generator().manual_seed(part))
        labels = tokens[:, 1:].clone()
        labels[0, :4] = -100
        starts = torch.zeros(2, 18, dtype=torch.bool)
        starts[1, 8] = part == 1
        windows, state = [], None
        for begin in range(0, 18, 6):
            columns = slice(begin, begin + 6)
            extra = {}
            if model.config.chunked_reading is not None and part == 0:
                extra = beside(model, tokens[:, columns], state)
                state = model(tokens[:, columns], state).state
            windows.append(
                Batch(
                    tokens=tokens[:, columns], labels=labels[:, columns], starts=starts[:, columns], extra_inputs=extra
                )
            )
        parts.append(windows)
    result = learner.step(0, parts)
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    return result.loss, gradients, learner.states


@pytest.mark.parametrize(("make", "family", "changes"), CASES)
def test_every_way_back_gives_the_same_step(make: Any, family: str, changes: dict[str, Any]):
    loss, gradients, states = gradients_of(small_model(family, **changes), make(), "plain")
    assert loss > 0
    assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-4
    for way in ("replay", "recompute"):
        other_loss, other_gradients, other_states = gradients_of(small_model(family, **changes), make(), way)
        assert other_loss == pytest.approx(loss, rel=1e-12)
        assert other_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            tolerance = {"rtol": 1e-9, "atol": 1e-11} if way == "replay" else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(other_gradients[name], gradient, **tolerance, msg=name)
        for mine, theirs in zip(other_states, states, strict=True):
            for name, tensor in named_tensors(theirs).items():
                torch.testing.assert_close(named_tensors(mine)[name], tensor, rtol=0, atol=1e-11, msg=name)
                assert not tensor.requires_grad
