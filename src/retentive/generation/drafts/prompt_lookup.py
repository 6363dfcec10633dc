"""Self-speculation: tokens drafted from the text's own n-grams, and read in one call to see which of them are right.

A token is right if it is the one that would have been chosen anyway: the likeliest, or with sampling the one that the
random number of its position draws. So the text is the one without drafts, whatever is drafted; it only comes faster
where drafts are often right. (Prompt lookup decoding, Saxena 2023; verified as by Leviathan et al., arXiv:2211.17192,
with drafts that have no probabilities of their own.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, runtime_checkable

from retentive.config_types import check_counts, check_types

_LONGEST_PAUSE = 64
_WEIGHT = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLookup:
    """How tokens are drafted: what followed the last tokens when they stood in the text before.

    Attributes:
        longest: Tokens of a draft, at most.
        ngram: Tokens that must have stood before, at most; where so many have not, fewer are looked for.
        shortest_ngram: The fewest.
        pauses: Whether drafting pauses where it is measured to lose time.
    """

    longest: int = 8
    ngram: int = 4
    shortest_ngram: int = 2
    pauses: bool = True

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "longest", "ngram", "shortest_ngram")
        if self.shortest_ngram > self.ngram:
            raise ValueError(
                f"shortest_ngram must be at most ngram = {self.ngram} tokens, but is {self.shortest_ngram}."
            )


@runtime_checkable
class Drafter(Protocol):
    """Guesses how a text goes on."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Learn the next tokens of the text."""
        ...

    def draft(self, most: int) -> list[int]:
        """Return at most so many tokens that may come next."""
        ...


class NgramIndex:
    """A text that grows, and where each of its n-grams stood last."""

    def __init__(self, lookup: PromptLookup) -> None:
        """Begin without tokens."""
        self._lookup = lookup
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens to the text."""
        sizes = range(self._lookup.shortest_ngram, self._lookup.ngram + 1)
        for token in tokens:
            end = len(self._text)
            # What ends before this token is followed by it; the text's own last n-grams are followed by nothing yet.
            for size in sizes:
                if end >= size:
                    self._after[tuple(self._text[end - size :])] = end
            self._text.append(token)

    def draft(self, most: int) -> list[int]:
        """What followed the longest of the text's last n-grams that stood before; empty where none has."""
        most = min(most, self._lookup.longest)
        for size in range(self._lookup.ngram, self._lookup.shortest_ngram - 1, -1):
            place = self._after.get(tuple(self._text[-size:])) if len(self._text) >= size else None
            if place is not None and most > 0:
                return self._text[place : place + most]
        return []


class DraftPauses:
    """Measures whether drafts gain time, and lets them pause where they lose it."""

    def __init__(self, *, pauses: bool, clock: Callable[[], float] = perf_counter) -> None:
        """Begin without measurements."""
        self._pauses, self._clock = pauses, clock
        self._plain: float | None = None
        self._drafted: float | None = None
        self._pause, self._waiting = 1, 0
        self._began = 0.0

    def wants_draft(self) -> bool:
        """Whether the next round should draft."""
        self._began = self._clock()
        if not self._pauses:
            return True
        if self._plain is None:
            return False
        if self._waiting:
            self._waiting -= 1
            return False
        return True

    def note(self, tokens: int, *, drafted: bool) -> None:
        """Note a round that began with `wants_draft`, and the tokens that it gave."""
        seconds = (self._clock() - self._began) / tokens
        before = self._drafted if drafted else self._plain
        mean = seconds if before is None else (1 - _WEIGHT) * before + _WEIGHT * seconds
        if not drafted:
            self._plain = mean
            return
        self._drafted = mean
        if self._plain is not None and mean > self._plain:
            self._waiting, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = 1
