"""Whatever labels a batch has, as the model's own head takes them: classes of texts, classes of tokens, bases."""

from dataclasses import dataclass

import torch
from torch import nn

from retentive.state import RecurrentState
from retentive.training.objectives.label_loss import label_loss, read_window
from retentive.training.objectives.protocol import Measured, Objective, ObjectiveConfig, Vocabulary
from retentive.training.window import Window


@dataclass(frozen=True, kw_only=True)
class LabelsConfig(ObjectiveConfig):
    """Predict the labels of the batches, whatever they are; for models with a head of another kind."""

    def build(self, vocabulary: Vocabulary, device: torch.device) -> Objective:
        """Make the objective."""
        return Labels()


class Labels(Objective):
    """The loss that the model computes from the batch's labels."""

    def advance(self, model: nn.Module, window: Window, state: RecurrentState | None) -> RecurrentState:
        """Read a window without its loss."""
        return read_window(model, window, state)

    def __call__(self, model: nn.Module, window: Window, state: RecurrentState | None) -> Measured:
        """Sum the cross-entropies of the labels."""
        return label_loss(model, window, state)
