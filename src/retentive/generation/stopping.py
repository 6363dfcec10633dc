"""When a row ends: at a stop token, or after so many tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

from retentive.config_types import check_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When a row ends.

    Attributes:
        max_new_tokens: A row ends after this many.
        stop_tokens: A row ends with the first of these, which is its last token; a tokenizer's ``end_of_text`` is the
            usual one. Without any, rows end by number alone.
    """

    max_new_tokens: int
    stop_tokens: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_count("max_new_tokens", self.max_new_tokens)
        for token in self.stop_tokens:
            check_count("every stop token", token, least=0)

    def check_vocab(self, vocab_size: int) -> None:
        """Validate that the model has the stop tokens.

        Raises:
            ValueError: If one is not in the vocabulary.
        """
        foreign = sorted(token for token in self.stop_tokens if not 0 <= token < vocab_size)
        if foreign:
            raise ValueError(
                f"every stop token must be from 0 to vocab_size - 1 = {vocab_size - 1}, but {foreign[0]} is not; "
                "is it of another tokenizer?"
            )

    def stopped(self, tokens: Iterable[int]) -> list[bool]:
        """Which rows' newest tokens end them."""
        return [token in self.stop_tokens for token in tokens]
