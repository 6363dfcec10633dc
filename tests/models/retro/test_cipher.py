"""The key is in the neighbours alone: whoever answers has read them."""

from dataclasses import replace

import pytest
import torch

from retentive.data.batch import Batch
from retentive.data.tasks.synthetic import cipher
from retentive.models.retnet import RetNetConfig
from retentive.models.retro import Retro, RetroConfig
from retentive.models.transformer import TransformerConfig
from retentive.training.processes.processes import alone
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.learner import Learner

pytestmark = pytest.mark.usefixtures("long_training")

SYMBOLS = 8
SIZES = {"batch_size": 64, "num_symbols": SYMBOLS, "chunk_size": 8, "seed": 0}
SHAPE = {"vocab_size": 2 * SYMBOLS + 1, "hidden_size": 64, "num_layers": 2, "num_heads": 2}


@torch.no_grad()
def accuracy(model: Retro, batch: Batch) -> float:
    logits = model(batch.tokens, **batch.extra_inputs).logits
    asked = batch.labels >= 0
    return (logits.argmax(-1) == batch.labels)[asked].double().mean().item()


@pytest.mark.parametrize(
    "backbone", [TransformerConfig(**SHAPE), RetNetConfig(**SHAPE)], ids=["attention", "retention"]
)
def test_a_key_that_only_neighbours_tell_is_used(backbone):
    torch.manual_seed(0)
    config = RetroConfig(
        backbone=backbone,
        chunk_size=8,
        cross_layers=(1, 2),
        encoder_hidden_size=64,
        encoder_num_layers=1,
        encoder_num_heads=2,
    )
    model = Retro(config)
    learner = Learner(
        model,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        schedule=ScheduleConfig(warmup_steps=50, final_share=1.0),
        decay_steps=2000,
        seed=0,
        carries_state=False,
        processes=alone(torch.device("cpu")),
    )
    test = cipher(10**6, **{**SIZES, "batch_size": 512})
    for step in range(1000):
        learner.step(step, [[cipher(step, **SIZES)]])
        if step % 50 == 49 and accuracy(model.eval(), test) >= 0.99:
            break
    assert accuracy(model.eval(), test) >= 0.95
    chance = 1 / SYMBOLS
    others = {"neighbours": test.extra_inputs["neighbours"].roll(1, 0)}
    assert accuracy(model, replace(test, extra_inputs={})) == pytest.approx(chance, abs=0.03)
    assert accuracy(model, replace(test, extra_inputs=others)) == pytest.approx(chance, abs=0.03)
