"""Masked-token prediction (BERT, arXiv:1810.04805): some tokens are hidden, and an encoder tells them."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from retentive.config_types import check_count, check_types
from retentive.data.batch import IGNORED, Batch
from retentive.models.protocol import LanguageModel
from retentive.state import RecurrentState
from retentive.training.objectives.draws import RowDraws
from retentive.training.objectives.label_loss import label_loss, read_window
from retentive.training.objectives.protocol import Measured, Objective, ObjectiveConfig, Vocabulary
from retentive.training.window import Window


@dataclass(frozen=True, kw_only=True)
class MaskedTokensConfig(ObjectiveConfig):
    """Predict hidden tokens from those around them, with an encoder.

    Attributes:
        share: Share of the tokens that are predicted, above 0 and at most 1.
        masked: Share of these in whose place the model reads ``mask_token``.
        random: Share of these in whose place it reads a token drawn at random; it reads the others as they are.
        mask_token: The token that hides another; null is the tokenizer's end-of-text, which stands nowhere else inside
            of a document.
    """

    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    mask_token: int | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "masked_tokens.")
        if not 0 < self.share <= 1:
            raise ValueError(f"masked_tokens.share must be above 0 and at most 1, but is {self.share}.")
        for name in ("masked", "random"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masked_tokens.{name} must be from 0 to 1, but is {getattr(self, name)}.")
        if self.masked + self.random > 1:
            raise ValueError(
                f"masked_tokens.masked and masked_tokens.random must add up to at most 1, but are {self.masked} and "
                f"{self.random}."
            )
        if self.mask_token is not None:
            check_count("masked_tokens.mask_token", self.mask_token, 0, "token")

    def build(self, vocabulary: Vocabulary, device: torch.device) -> Objective:
        """Make the objective.

        Raises:
            ValueError: If there is no token to hide others with.
        """
        mask_token = vocabulary.end_of_text if self.mask_token is None else self.mask_token
        if mask_token is None:
            raise ValueError("masked_tokens.mask_token must be a token id where no tokenizer gives an end-of-text.")
        if mask_token >= vocabulary.size:
            raise ValueError(
                f"masked_tokens.mask_token must be below the vocabulary's {vocabulary.size} ids, but is {mask_token}."
            )
        return MaskedTokens(self, mask_token=mask_token, vocab_size=vocabulary.size)


class MaskedTokens(Objective):
    """Cross-entropy of the hidden tokens, in nats."""

    def __init__(self, config: MaskedTokensConfig, *, mask_token: int, vocab_size: int) -> None:
        """Hide tokens behind ``mask_token``."""
        self._config, self._mask_token, self._vocab_size = config, mask_token, vocab_size

    def check(self, model: LanguageModel, *, carries_state: bool) -> None:
        """Refuse models that read from left to right."""
        if model.predicts_next_token:
            raise ValueError(
                "objective must be 'next_token' for a model that reads from left to right; 'masked_tokens' needs an "
                "encoder, such as a recurrent memory with bidirectional=True."
            )

    def prepare(self, batch: Batch, draws: RowDraws) -> Batch:
        """Hide tokens of the text, and ask for them.

        A token is of the text where the next one is asked for, and if no document starts there: a document is read
        after an end-of-text.
        """
        rows, columns = batch.tokens.shape
        chosen, way, drawn = torch.from_numpy(draws.uniform(rows, columns, 3)).unbind(-1)
        asked = (chosen < self._config.share) & (batch.labels != IGNORED) & ~batch.starts
        hidden = asked & (way < self._config.masked)
        replaced = asked & ~hidden & (way < self._config.masked + self._config.random)
        others = (drawn * self._vocab_size).long().to(batch.tokens.dtype)
        tokens = batch.tokens.masked_fill(hidden, self._mask_token)
        return replace(
            batch,
            tokens=torch.where(replaced, others, tokens),
            labels=batch.tokens.long().masked_fill(~asked, IGNORED),
        )

    def advance(self, model: nn.Module, window: Window, state: RecurrentState | None) -> RecurrentState:
        """Read a window without its loss."""
        return read_window(model, window, state)

    def __call__(self, model: nn.Module, window: Window, state: RecurrentState | None) -> Measured:
        """Sum the cross-entropies of the hidden tokens."""
        return label_loss(model, window, state)
