"""When a row ends: at a stop token, at a stop string, or after so many tokens."""

from dataclasses import dataclass
from typing import Literal

from retentive.config_types import check_count
from retentive.engine import RowLimits
from retentive.generation.stop_strings import TextUntil, checked_stop_strings
from retentive.text.tokenizer import Tokenizer

TextEnd = Literal["stop_token", "stop_string", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When a row ends.

    Attributes:
        max_new_tokens: A row ends after this many.
        stop_tokens: A row ends with the first of these, which is its last token; a tokenizer's ``end_of_text`` is the
            usual one. Without any, rows end by number alone.
        stop_strings: A row ends with the first of these in the text of its new tokens.
    """

    max_new_tokens: int
    stop_tokens: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_count("max_new_tokens", self.max_new_tokens)
        for token in self.stop_tokens:
            check_count("every stop token", token, least=0)
        checked_stop_strings(self.stop_strings)

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


class RowText:
    """The text of one row as its tokens come, and what ends it.

    Attributes:
        ended: What has ended the row; None while it goes on.
    """

    def __init__(self, stopping: Stopping, tokenizer: Tokenizer | None) -> None:
        """Begin without text.

        Args:
            stopping: When the row ends.
            tokenizer: Turns tokens into text; None gives no text.

        Raises:
            ValueError: If there are stop strings and no tokenizer.
        """
        if stopping.stop_strings and tokenizer is None:
            raise ValueError(
                "stop_strings must come with a tokenizer, which turns tokens into text, but there is none: give the "
                "model's own as tokenizer."
            )
        self._stopping, self._new = stopping, ""
        self._text = None if tokenizer is None else TextUntil(tokenizer, stopping.stop_strings)
        self.ended: TextEnd | None = None

    @property
    def limits(self) -> RowLimits:
        """When the row ends, for an engine; whoever asks them about a token has told it to this text."""
        return RowLimits(
            max_new_tokens=self._stopping.max_new_tokens,
            stop_tokens=self._stopping.stop_tokens,
            ends=None if self._text is None else self._read,
        )

    def _read(self, token: int) -> bool:
        """Turn a token into text; whether a stop string is complete with it."""
        assert self._text is not None
        self._new += self._text.push(token)
        return self._text.has_ended

    def take(self, token: int, *, has_ended: bool, is_stopped: bool) -> str:
        """The characters that are certain since the last call: no stop string begins in them.

        Args:
            token: The newest one.
            has_ended: Whether the row ends with it; then the rest of the text comes, without the stop string.
            is_stopped: Whether the limits say so, and not the number of tokens.
        """
        new, self._new = self._new, ""
        if has_ended:
            stopped: TextEnd = "stop_token" if token in self._stopping.stop_tokens else "stop_string"
            self.ended = stopped if is_stopped else "length"
            new += "" if self._text is None else self._text.finish()
        return new
