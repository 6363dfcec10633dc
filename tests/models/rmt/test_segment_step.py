"""A segment step is one segment of the model."""

import pytest
import torch

from laws.families import case_name
from models.rmt.small import RETNET, random_tokens, small_rmt
from retentive.models.rmt.segment_step import SegmentStep

RECALLING = {"xl_length": 5, "xl_layer_above": True}


@pytest.mark.parametrize("changes", [{}, RECALLING, {"bidirectional": True, "xl_length": 5}], ids=case_name)
def test_three_steps_are_the_models_three_segments(changes: dict):
    model = small_rmt(**changes)
    step, tokens = SegmentStep(model), random_tokens(2, 15)
    whole, carried = model(tokens), step.first_inputs(2)
    for number in range(3):
        segment = slice(5 * number, 5 * number + 5)
        logits, *carried = step(tokens[:, segment], *carried)
        torch.testing.assert_close(logits, whole.logits[:, segment], rtol=0, atol=1e-12)
    torch.testing.assert_close(carried[0], whole.state.memory, rtol=0, atol=1e-12)


def test_what_cannot_be_a_step_is_refused():
    with pytest.raises(ValueError, match="memory tokens on, but the model has memory='tokens' and num_memory_tokens=0"):
        SegmentStep(small_rmt(num_memory_tokens=0))
    with pytest.raises(ValueError, match="but the model has memory='associative'"):
        SegmentStep(small_rmt(memory="associative", associative_dim=4))
    with pytest.raises(ValueError, match="must have attention alone for a segment step, but is a retnet: ONNX"):
        SegmentStep(small_rmt(backbone=RETNET, causal_memory=True))
