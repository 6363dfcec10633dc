"""Texts with a fact in their first segment and a question in their last, around which other text stands."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from retentive.data.batch import IGNORED, Batch
from retentive.text.tokenizer import Tokenizer

SAID = " The secret word is"
"""What stands before the word, where it is told and where it is asked for."""

_WORDS = """
apple anchor basket bell bird boat bottle bread bridge button cake camp candle carpet castle chair clock cloud coat coin
copper corn cotton crown dance desert diamond door dragon dress duck eagle engine farm feather fence field fire fish
flower forest fox garden gate ghost glass gold grass guitar hammer harbor heart hill honey horse house island jacket
judge key king kitchen knife ladder lake lamp leaf lemon light lion marble market metal milk mirror money monkey moon
mountain music needle night oak ocean olive orange paint palace paper pencil pepper piano pillow planet queen rabbit
radio rain ribbon ring river rocket rope rose salt sand sheep ship silver smoke snake snow spoon spring star stone
summer table tiger tower train tree tunnel umbrella valley velvet village violin voice wagon water wheel window winter
wolf wood
"""
WORDS = tuple(_WORDS.split())


@dataclass(frozen=True, slots=True)
class Facts:
    """What texts are made of, in a tokenizer's ids.

    Attributes:
        said: `SAID`.
        end: What stands behind the word where it is told.
        known: Words that training says and asks for.
        new: Words that it never does.
        filler: Text to stand around facts, of training.
        asked_filler: The same of questions, none of which is trained on.
    """

    said: tuple[int, ...]
    end: tuple[int, ...]
    known: tuple[tuple[int, ...], ...]
    new: tuple[tuple[int, ...], ...]
    filler: Int64[np.ndarray, "_"]
    asked_filler: Int64[np.ndarray, "_"]

    @property
    def longest(self) -> int:
        """Tokens of the longest fact: a segment must have as many."""
        return max(len(self.told(word)) for word in (*self.known, *self.new))

    def told(self, word: Sequence[int]) -> list[int]:
        """The fact as text."""
        return [*self.said, *word, *self.end]

    def asked(self, word: Sequence[int]) -> list[int]:
        """The question as text, with all tokens of the word that others follow."""
        return [*self.said, *word[:-1]]


NEW_SHARE = 0.25
"""Share of the words that training never says."""

_ASKED_SHARE = 0.1


def make_facts(tokenizer: Tokenizer, text: str, seed: int) -> Facts:
    """Turn words and text into ids.

    Args:
        tokenizer: Of the model.
        text: To stand around facts; a tenth of it, at its end, is not trained on.
        seed: Decides which words are new.

    Raises:
        ValueError: If the text is too short.
    """
    ids = np.array(tokenizer.encode(text), dtype=np.int64)
    cut = len(ids) - int(_ASKED_SHARE * len(ids))
    if len(ids) - cut < 2:
        raise ValueError(f"corpus must have at least twenty tokens of text, but has {len(ids)}.")
    words = [tuple(tokenizer.encode(f" {word}")) for word in WORDS]
    order = np.random.default_rng(seed).permutation(len(words))
    new = int(NEW_SHARE * len(words))
    return Facts(
        said=tuple(tokenizer.encode(SAID)),
        end=tuple(tokenizer.encode(".")),
        known=tuple(words[number] for number in order[new:]),
        new=tuple(words[number] for number in order[:new]),
        filler=ids[:cut],
        asked_filler=ids[cut:],
    )


def training_batch(
    facts: Facts, *, rows: int, segments: int, segment_length: int, random: np.random.Generator
) -> Batch:
    """Rows that tell a known word in their first segment and ask for it at the end of their last.

    Args:
        facts: What they are made of.
        rows: Number of rows.
        segments: Of each.
        segment_length: Tokens of a segment.
        random: Decides everything.
    """
    words = [facts.known[number] for number in random.integers(len(facts.known), size=rows)]
    tokens = stretches(facts.filler, rows, segments * segment_length, random)
    tokens[:, :segment_length] = telling(facts, words, tokens[:, :segment_length], random)
    tokens[:, -segment_length:] = asking(facts, words, tokens[:, -segment_length:])
    labels = np.full(tokens.shape, IGNORED)
    for row, word in enumerate(words):
        labels[row, -len(word) :] = word
    starts = np.zeros(tokens.shape, dtype=bool)
    starts[:, 0] = True
    return Batch(tokens=_tensor(tokens), labels=_tensor(labels), starts=torch.from_numpy(starts))


def stretches(
    filler: Int64[np.ndarray, "_"], rows: int, length: int, random: np.random.Generator
) -> Int64[np.ndarray, "rows length"]:
    """Draw a stretch of text for each row; a text that is too short is read in a circle."""
    places = random.integers(len(filler), size=(rows, 1)) + np.arange(length)
    return filler.take(places, mode="wrap")


def telling(
    facts: Facts, words: Sequence[Sequence[int]], segment: Int64[np.ndarray, "rows time"], random: np.random.Generator
) -> Int64[np.ndarray, "rows time"]:
    """A segment with a fact somewhere in each row."""
    segment = segment.copy()
    for row, word in enumerate(words):
        told = facts.told(word)
        place = int(random.integers(segment.shape[1] - len(told) + 1))
        segment[row, place : place + len(told)] = told
    return segment


def asking(
    facts: Facts, words: Sequence[Sequence[int]], segment: Int64[np.ndarray, "rows time"]
) -> Int64[np.ndarray, "rows time"]:
    """A segment with the question at the end of each row."""
    segment = segment.copy()
    for row, word in enumerate(words):
        asked = facts.asked(word)
        segment[row, segment.shape[1] - len(asked) :] = asked
    return segment


def _tensor(numbers: Int64[np.ndarray, "rows time"]) -> Tensor:
    return torch.from_numpy(numbers)
