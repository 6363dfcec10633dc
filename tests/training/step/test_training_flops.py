"""The count of matrix products is exact, and the machine's speed is one."""

import pytest
import torch

from laws.families import family_names, small_config, small_model
from retentive.models.registry import build
from retentive.training.step.flops import matrix_flops_per_second, training_flops_per_token


@pytest.mark.parametrize("tied", [False, True])
def test_products_of_a_transformer_are_counted_exactly(tied: bool):
    model = small_model("transformer", tie_embeddings=tied, dtype=torch.float32)
    hidden, layers, vocab, window = 16, 2, 23, 6
    weights = layers * (3 * hidden * hidden + hidden * hidden + 2 * hidden * 4 * hidden) + vocab * hidden
    attention = layers * 2 * window * hidden  # scores and their sum of values, for each token, whole squares
    assert training_flops_per_token(model, window) == 3 * 2 * (weights + attention)


def test_products_of_a_retnet_are_counted_exactly():
    model = small_model("retnet", dtype=torch.float32)
    hidden, layers, vocab, heads, key, value, chunk, window = 16, 2, 23, 2, 8, 16, 4, 10
    weights = layers * (hidden * heads * (2 * key + 2 * value) + heads * value * hidden + 2 * hidden * 2 * hidden)
    squares = 2 * chunk**2 + 2**2  # two whole chunks and a rest of two tokens
    retention = layers * heads * (squares * (key + value) + 2 * window * key * value) / window
    assert training_flops_per_token(model, window) == pytest.approx(6 * (weights + vocab * hidden + retention))


@pytest.mark.parametrize("family", family_names())
def test_nothing_needs_to_be_computed(family: str):
    with torch.device("meta"):
        skeleton = build(small_config(family))
    assert training_flops_per_token(skeleton, 10) == training_flops_per_token(build(small_config(family)), 10) > 0


def test_counting_changes_nothing():
    model = small_model("retnet").train()
    training_flops_per_token(model, 4)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_machine_has_a_speed():
    assert matrix_flops_per_second(torch.device("cpu"), torch.float32, 0.05) > 1e8
