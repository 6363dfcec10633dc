"""A segment step is one segment of the model."""

import pytest
import torch

from laws.families import case_name, random_tokens
from models.rmt.small import RETNET, small_rmt
from retentive.models.rmt.segment_step import SegmentStep

RECALLING = {"xl_length": 5, "xl_layer_above": True}
UNREAD = [
    {"read_first": False},
    {"read_first": False, "write_start": "learned"},
    {"read_first": False, "causal_memory": True, "xl_length": 3, "token_shift": True},
]


@pytest.mark.parametrize("changes", [{}, RECALLING, {"bidirectional": True, "xl_length": 5}, *UNREAD], ids=case_name)
def test_three_steps_are_the_models_three_segments(changes: dict):
    model = small_rmt(**changes)
    step, tokens = SegmentStep(model), random_tokens(2, 15)
    whole, carried = model(tokens), step.first_inputs(2)
    for number in range(3):
        segment = slice(5 * number, 5 * number + 5)
        logits, *carried = step(tokens[:, segment], *carried)
        torch.testing.assert_close(logits, whole.logits[:, segment], rtol=0, atol=1e-12)
    torch.testing.assert_close(carried[0], whole.state.memory, rtol=0, atol=1e-12)


def test_a_token_whose_embedding_is_zero_is_recalled_like_any_other():
    """A table that was trained with a padding index has such a row."""
    model, tokens = small_rmt(xl_length=5), random_tokens(2, 15)
    with torch.no_grad():
        model.decoder.embedding.tokens.weight[tokens[0, 3]] = 0
    step = SegmentStep(model)
    carried = step.first_inputs(2)
    for number in range(3):
        logits, *carried = step(tokens[:, 5 * number : 5 * number + 5], *carried)
    torch.testing.assert_close(logits, model(tokens).logits[:, 10:], rtol=0, atol=1e-12)


def test_segments_of_one_token():
    model, tokens = small_rmt(segment_length=1, read_first=False), random_tokens(2, 3)
    step = SegmentStep(model)
    carried = step.first_inputs(2)
    for column in range(3):
        logits, *carried = step(tokens[:, column : column + 1], *carried)
        torch.testing.assert_close(logits[:, 0], model(tokens).logits[:, column], rtol=0, atol=1e-12)


def test_what_cannot_be_a_step_is_refused():
    with pytest.raises(ValueError, match="memory tokens on, but the model has memory='tokens' and num_memory_tokens=0"):
        SegmentStep(small_rmt(num_memory_tokens=0))
    with pytest.raises(ValueError, match="but the model has memory='associative'"):
        SegmentStep(small_rmt(memory="associative", associative_dim=4))
    with pytest.raises(ValueError, match="must have attention alone for a segment step, but is a retnet: ONNX"):
        SegmentStep(small_rmt(backbone=RETNET, causal_memory=True))
    step = SegmentStep(small_rmt(xl_length=2))
    with pytest.raises(ValueError, match="takes tokens, memory, history, history_real, but 2 were given"):
        step(random_tokens(1, 2), step.first_inputs(1)[0])
