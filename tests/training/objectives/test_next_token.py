"""Next-token prediction: the text's likelihood, for models that read from left to right."""

import pytest
import torch

from laws.families import small_model
from retentive.data.tasks.synthetic import repeat_copy
from retentive.training.objectives.next_token import NextToken, NextTokenConfig
from retentive.training.run.fit import fit
from retentive.training.window import place


def test_the_sum_is_over_labels_and_the_state_is_the_models():
    batch = repeat_copy(0, batch_size=3, length=4, num_symbols=6, seed=0)
    model = small_model("retnet")
    window = place(batch, torch.device("cpu"), carries_state=False)
    total, count, state = NextToken()(model, window, None)
    output = model(batch.tokens, labels=batch.labels)
    assert count == int((batch.labels != -100).sum()) < batch.labels.numel()
    torch.testing.assert_close(total, output.loss * count, rtol=1e-14, atol=0)
    assert torch.equal(state.layers[0].kv, output.state.layers[0].kv)
    assert torch.equal(NextToken().advance(model, window, None).layers[0].kv, state.layers[0].kv)


def test_the_mean_is_exact_in_float32():
    """A sum in float32 would round the mean away from what the model gave."""
    model = small_model("retnet", dtype=torch.float32)
    for seed in range(20):
        window = place(
            repeat_copy(seed, batch_size=3, length=9, num_symbols=6, seed=0), torch.device("cpu"), carries_state=False
        )
        total, count, _ = NextToken()(model, window, None)
        loss = model(window.tokens, labels=window.labels, starts=window.starts).loss
        assert float((total / count).detach()) == float(loss.detach())


def test_an_encoder_has_seen_the_next_token():
    with pytest.raises(ValueError, match="objective must be 'masked_tokens' for an encoder"):
        fit(
            small_model("rmt", bidirectional=True),
            lambda step: repeat_copy(step, batch_size=2, length=4, num_symbols=6, seed=0),
            steps=1,
            objective=NextTokenConfig(),
        )
