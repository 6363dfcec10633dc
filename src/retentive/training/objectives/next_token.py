"""Next-token prediction: the cross-entropy of each token after those before it."""

from dataclasses import dataclass

import torch
from torch import nn

from retentive.models.protocol import LanguageModel
from retentive.state import RecurrentState
from retentive.training.objectives.label_loss import label_loss, read_window
from retentive.training.objectives.protocol import Measured, Objective, ObjectiveConfig, Vocabulary
from retentive.training.window import Window


@dataclass(frozen=True, kw_only=True)
class NextTokenConfig(ObjectiveConfig):
    """Predict each token from those before it."""

    def build(self, vocabulary: Vocabulary, device: torch.device) -> Objective:
        """Make the objective."""
        return NextToken()


class NextToken(Objective):
    """Cross-entropy of the next token, in nats."""

    is_likelihood = True
    reads_parts = True

    def check(self, model: LanguageModel, *, carries_state: bool) -> None:
        """Refuse encoders, whose tokens have already seen the next one."""
        if not model.predicts_next_token:
            raise ValueError(
                "objective must be 'masked_tokens' for an encoder (bidirectional=True), which has already seen the "
                "token that 'next_token' asks for; or set bidirectional to false."
            )

    def advance(self, model: nn.Module, window: Window, state: RecurrentState | None) -> RecurrentState:
        """Read a window without its loss."""
        return read_window(model, window, state)

    def __call__(self, model: nn.Module, window: Window, state: RecurrentState | None) -> Measured:
        """Sum the cross-entropies of the labels."""
        return label_loss(model, window, state)
