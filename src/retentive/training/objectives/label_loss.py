"""The cross-entropy of a window's labels, as the model computes it."""

import torch
from torch import nn

from retentive.models.protocol import ModelOutput
from retentive.state import RecurrentState
from retentive.training.objectives.protocol import Measured
from retentive.training.window import Window


def label_loss(model: nn.Module, window: Window, state: RecurrentState | None) -> Measured:
    """Read a window and sum the cross-entropies of its labels; the state is the model's."""
    output: ModelOutput = model(
        window.tokens,
        state,
        window.labels,
        mask=window.mask,
        starts=window.starts,
        logits_to_keep=0,
        **window.extra_inputs,
    )
    assert output.loss is not None
    # float64 holds the mean times the count exactly, so dividing by a count loses no bit of the mean.
    return output.loss.to(torch.float64) * window.num_labels, window.num_labels, output.state


def read_window(model: nn.Module, window: Window, state: RecurrentState | None) -> RecurrentState:
    """Read a window for the state after it."""
    output: ModelOutput = model(
        window.tokens, state, mask=window.mask, starts=window.starts, logits_to_keep=0, **window.extra_inputs
    )
    return output.state
