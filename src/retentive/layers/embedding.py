"""Token embedding, with learned positions where the model has them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retentive.config_types import check_counts, check_kind, check_types
from retentive.layers.norm import Norm, NormConfig
from retentive.shapes import Hidden, Positions, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """Shape of the embedding.

    Attributes:
        vocab_size: Number of token ids.
        hidden_size: Width of the residual stream.
        max_positions: Rows of the table of learned positions; None is no such table.
        scale: Multiply embeddings by ``hidden_size ** 0.5`` (fairseq's custom).
        norm: Norm of the tokens' embeddings, scaled and before positions are added; None is no norm.
    """

    vocab_size: int
    hidden_size: int
    max_positions: int | None = None
    scale: bool = False
    norm: NormConfig | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "vocab_size", "hidden_size")
        if self.max_positions is not None and self.max_positions < 1:
            raise ValueError(f"max_positions must be at least 1 token, but is {self.max_positions}.")


_TOKEN = ("token id", "vocab_size", "are they of another tokenizer?")
_POSITION = ("position", "max_positions", "read shorter texts, or make the model with more positions.")
"""What is looked up, how many there are, and what helps where there is no such one."""


class Embedding(nn.Module):
    """Turn token ids into the residual stream."""

    def __init__(self, config: EmbeddingConfig) -> None:
        """Make the tables."""
        check_kind("config", config, EmbeddingConfig)
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = None if config.norm is None else Norm(config.hidden_size, config.norm)
        self.positions = nn.Embedding(config.max_positions, config.hidden_size) if config.max_positions else None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what is looked up; a table of whole numbers says which."""
        table: Any = self.tokens
        return table.computed_in if hasattr(table, "computed_in") else table.weight.dtype

    def forward(self, tokens: Tokens, positions: Positions) -> Hidden:
        """Look up tokens and add learned positions.

        Raises:
            ValueError: If a token id or a position is outside its table. On a GPU the check would stall the device, so
                there the id ends in the device's own assertion.
        """
        return self.place(self._look_up(self.tokens, tokens, _TOKEN), positions)

    def place(self, hidden: Hidden, positions: Positions) -> Hidden:
        """Turn rows of the token table, or vectors in place of them, into the first block's input."""
        if self.config.scale:
            hidden = hidden * self.config.hidden_size**0.5
        if self.norm is not None:
            hidden = self.norm(hidden)
        if self.positions is not None:
            hidden = hidden + self._look_up(self.positions, positions, _POSITION)
        return hidden

    @staticmethod
    def _look_up(table: nn.Module, ids: Tensor, words: tuple[str, str, str]) -> Tensor:
        try:
            return table(ids)
        except IndexError as error:
            rows: Any = table.num_embeddings
            wrong = ids[(ids < 0) | (ids >= rows)]
            noun, limit, cure = words
            raise ValueError(
                f"every {noun} must be from 0 to {limit} - 1 = {rows - 1}, but "
                f"{wrong.numel()} are outside, the first of them {int(wrong.flatten()[0])}; {cure}"
            ) from error


def initialise_embedding(embedding: Embedding) -> None:
    """Normal with standard deviation ``hidden_size ** -0.5`` (0.02 for learned positions)."""
    nn.init.normal_(embedding.tokens.weight, std=embedding.config.hidden_size**-0.5)
    if embedding.positions is not None:
        nn.init.normal_(embedding.positions.weight, std=0.02)
