"""Text of one row up to the first of some strings, as it comes."""

from collections.abc import Collection, Mapping

from retentive.config_types import check_kind
from retentive.generation.text_stream import TextStream
from retentive.text.tokenizer import Tokenizer

HELD = "held_text"
"""Name of a state's metadata that holds the begin of a stop string, which the text ends with; see `TextUntil`."""


class TextUntil:
    """Turns tokens into text until a stop string is complete; characters that may begin one are held back.

    Attributes:
        has_ended: Whether a stop string has come; it is not part of the text.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_strings: Collection[str] = (), metadata: Mapping[str, str] | None = None
    ) -> None:
        """Begin without text, or with what another stream left in ``metadata``; see `TextStream`.

        A stop string may begin in the text of that stream. Characters that it held back are not given again.

        Raises:
            TypeError: If a stop string is no string.
            ValueError: If one is empty.
            DamagedFileError: If the bytes in ``metadata`` are not the begin of a character.
        """
        self._text = TextStream(tokenizer, metadata)
        self._ends = checked_stop_strings(stop_strings)
        self._held = (metadata or {}).get(HELD, "")
        self._held = self._held[len(self._held) - self._longest_begin() :]
        self._given = len(self._held)  # characters held back that the other stream gave at its end
        self.has_ended = False

    def push(self, token: int) -> str:
        """The characters that are certain with this token: whole, and no begin of a stop string."""
        return self._release(self._text.push(token))

    @property
    def held(self) -> str:
        """Characters that are held back, for they may begin a stop string."""
        return self._held[self._given :]

    @property
    def metadata(self) -> dict[str, str]:
        """The bytes of a character that is not complete yet, and what may begin a stop string; for `save_state`."""
        return self._text.metadata | ({HELD: self._held} if self._held else {})

    def finish(self) -> str:
        """The rest: what was held back, and U+FFFD for a character that was not completed. Empty after the end."""
        if self.has_ended:
            return ""
        rest = self._release(self._text.finish())
        rest, self._held, self._given = rest + self.held, "", 0
        return rest

    def _release(self, new: str) -> str:
        if self.has_ended:
            return ""
        self._held += new
        begins = [begin for end in self._ends if (begin := self._held.find(end)) >= 0]
        if begins:
            certain, self._held, self.has_ended = self._held[: min(begins)], "", True
        else:
            kept = self._longest_begin()
            certain, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        given, self._given = self._given, max(0, self._given - len(certain))
        return certain[given:]

    def _longest_begin(self) -> int:
        """The length of the longest end of the text that is a begin of a stop string."""
        longest = min(len(self._held), max(map(len, self._ends), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(end.startswith(self._held[-length:]) for end in self._ends):
                return length
        return 0


def checked_stop_strings(stop_strings: object) -> tuple[str, ...]:
    """Validate stop strings.

    Raises:
        TypeError: If they are no collection of strings.
        ValueError: If one is empty.
    """
    if isinstance(stop_strings, str):
        raise TypeError(f"stop_strings must be a list of strings, but is a str: give [{stop_strings!r}].")
    check_kind("stop_strings", stop_strings, Collection, cure="give a list of strings")
    assert isinstance(stop_strings, Collection)
    for end in stop_strings:
        if not isinstance(end, str):
            raise TypeError(f"every stop string must be a str, but one is a {type(end).__name__}: {end!r}.")
        if not end:
            raise ValueError("every stop string must have at least one character, but one is empty: leave it out.")
    return tuple(stop_strings)
