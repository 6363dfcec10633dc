"""Synthetic tasks over many segments: is a fact remembered after everything that follows it?

Every batch depends on its step and the arguments alone. Only answers have labels, so the loss of a model that cannot
solve a task is the logarithm of the number of possible answers. Rows are whole segments long, and no fact lies across
the border of two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from retentive.data.batch import IGNORED, Batch, check_sizes

VALUES = b"ABCDEFGHIJKLMNOP"
"""The sixteen values of a fact in bytes."""

FACT_BEGIN, FACT_END, QUESTION = b"\xfd\xfe\xff"
"""What stands before and after the value of a fact, and the question. No UTF-8 text has these bytes, so none occurs in
any filler."""

NOT_IN_TEXT = bytes((0xC0, 0xC1, *range(0xF5, 0x100)))
"""The bytes that no UTF-8 text has."""

FILLER = np.array(sorted(set(range(256)) - set(NOT_IN_TEXT)), dtype=np.uint8)
"""Every byte of text. Values are among them, so that a value alone does not give the answer."""

FACT_LENGTH = 3

Filler = Callable[[tuple[int, int], np.random.Generator], Int64[np.ndarray, "rows time"]]
"""Called with a number of rows, their length and random numbers, returns what stands around facts, as ids of bytes."""


def filler_bytes(shape: tuple[int, int], random: np.random.Generator) -> Int64[np.ndarray, "rows time"]:
    """Random bytes, all of `FILLER` equally often."""
    return FILLER[random.integers(len(FILLER), size=shape)].astype(np.int64)


@dataclass(frozen=True, slots=True)
class TextFiller:
    """Stretches of a text, each from a place drawn at random; a text that is too short is read in a circle.

    Attributes:
        text: Bytes of UTF-8 text.
        random_share: Share of the rows that are random bytes instead, so that training leaves out no byte that other
            text may have.
    """

    text: UInt8[np.ndarray, "size"]
    random_share: float = 0.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not len(self.text):
            raise ValueError("text of a filler must have at least one byte, but is empty.")
        strange = np.flatnonzero(np.isin(self.text, np.frombuffer(NOT_IN_TEXT, dtype=np.uint8)))
        if len(strange):
            raise ValueError(
                f"text of a filler must be UTF-8, for other bytes mark facts and questions, but its byte "
                f"{strange[0]:,} is 0x{self.text[strange[0]]:02x}."
            )
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share must be from 0 to 1, but is {self.random_share}.")

    def __call__(self, shape: tuple[int, int], random: np.random.Generator) -> Int64[np.ndarray, "rows time"]:
        """Draw a stretch for each row."""
        rows, time = shape
        places = random.integers(len(self.text), size=(rows, 1)) + np.arange(time)
        stretches = self.text.take(places, mode="wrap").astype(np.int64)
        if not self.random_share:
            return stretches
        return np.where(random.random((rows, 1)) < self.random_share, filler_bytes(shape, random), stretches)


def fact_bytes(value: int) -> Int64[np.ndarray, "3"]:
    """The bytes of the fact about a value, by its number: its begin, the value and its end."""
    return np.array([FACT_BEGIN, VALUES[value], FACT_END])


def fact_in_filler(
    step: int,
    *,
    batch_size: int,
    segment_length: int,
    segments: int,
    seed: int,
    place: Literal["first", "anywhere"] = "anywhere",
    filler: Filler = filler_bytes,
) -> Batch:
    """Memorize, or detect and memorize (Bulatov et al. 2023), in bytes: a fact, filler, a question at the end.

    Args:
        step: Number of the batch.
        batch_size: Rows.
        segment_length: Bytes of a segment, at least 8.
        segments: Segments of a row.
        seed: Another seed gives other rows.
        place: The fact stands at the begin of the ``first`` segment (memorize), or ``anywhere`` before the question.
        filler: What stands around them.

    Raises:
        ValueError: If a size is too small.
    """
    check_sizes(batch_size=batch_size, segments=segments, segment_length=segment_length)
    if segment_length < 2 * FACT_LENGTH + 2:
        raise ValueError(f"segment_length must be at least {2 * FACT_LENGTH + 2} bytes, but is {segment_length}.")
    random = np.random.default_rng((seed, step))
    time, last = segments * segment_length, (segments - 1) * segment_length
    tokens = filler((batch_size, time), random)
    labels = np.full_like(tokens, IGNORED)
    values = random.integers(len(VALUES), size=batch_size)
    asked = last + random.integers(segment_length // 2, segment_length, size=batch_size)
    for row in range(batch_size):
        segment = int(random.integers(segments)) if place == "anywhere" else 0
        room = (int(asked[row]) - last if segment == segments - 1 else segment_length) - FACT_LENGTH
        begin = segment * segment_length + (int(random.integers(room + 1)) if place == "anywhere" else 0)
        tokens[row, begin : begin + FACT_LENGTH] = fact_bytes(int(values[row]))
    tokens[np.arange(batch_size), asked] = QUESTION
    labels[np.arange(batch_size), asked] = np.frombuffer(VALUES, dtype=np.uint8)[values]
    return _batch(tokens, labels)


def copy_segments(
    step: int, *, batch_size: int, segment_length: int, segments: int, num_symbols: int, seed: int
) -> Batch:
    """Copy: the first half of the segments holds random symbols, the second half the same ones.

    In the second half the answers are also the inputs (teacher forcing): a token's label is the next token. Symbols are
    ids 0 to ``num_symbols - 1``; the one that begins the second half is ``num_symbols``.

    Args:
        step: Number of the batch.
        batch_size: Rows.
        segment_length: Tokens of a segment.
        segments: Segments of a row, an even number.
        num_symbols: Symbols.
        seed: Another seed gives other rows.

    Raises:
        ValueError: If a size is below 1 or ``segments`` is odd.
    """
    said = _said(step, batch_size, segment_length, segments, num_symbols, seed)
    return _repeated(said, said, num_symbols)


def reverse_segments(
    step: int, *, batch_size: int, segment_length: int, segments: int, num_symbols: int, seed: int
) -> Batch:
    """Reverse: as `copy_segments`, with the last symbol first.

    Args:
        step: As for `copy_segments`.
        batch_size: As for `copy_segments`.
        segment_length: As for `copy_segments`.
        segments: As for `copy_segments`.
        num_symbols: As for `copy_segments`.
        seed: As for `copy_segments`.
    """
    said = _said(step, batch_size, segment_length, segments, num_symbols, seed)
    return _repeated(said, said[:, ::-1], num_symbols)


def pairs_in_segments(
    step: int, *, batch_size: int, segment_length: int, num_pairs: int, num_keys: int, num_values: int, seed: int
) -> Batch:
    """Associative retrieval: each segment holds a pair of key and value, the last asks for the value of one key.

    Keys are ids 0 to ``num_keys - 1``, values the ``num_values`` ids after them; then come the blank and the question.

    Args:
        step: Number of the batch.
        batch_size: Rows.
        segment_length: Tokens of a segment, at least 2.
        num_pairs: Pairs with different keys; a row has ``num_pairs + 1`` segments.
        num_keys: Number of keys.
        num_values: Number of values.
        seed: Another seed gives other rows.

    Raises:
        ValueError: If a size is too small, or there are fewer keys than pairs.
    """
    check_sizes(batch_size=batch_size, num_pairs=num_pairs, num_keys=num_keys, num_values=num_values)
    check_sizes(segment_length=segment_length)
    if segment_length < 2:
        raise ValueError(f"segment_length must be at least 2 tokens, but is {segment_length}.")
    if num_keys < num_pairs:
        raise ValueError(f"num_keys must be at least num_pairs, which is {num_pairs}, but is {num_keys}.")
    random = np.random.default_rng((seed, step))
    blank, question = num_keys + num_values, num_keys + num_values + 1
    tokens = np.full((batch_size, num_pairs + 1, segment_length), blank)
    labels = np.full_like(tokens, IGNORED)
    keys = random.random((batch_size, num_keys)).argsort(1)[:, :num_pairs]
    values = num_keys + random.integers(num_values, size=(batch_size, num_pairs))
    places = random.integers(segment_length - 1, size=(batch_size, num_pairs))
    rows, columns = np.ogrid[:batch_size, :num_pairs]
    tokens[rows, columns, places], tokens[rows, columns, places + 1] = keys, values
    asked = random.integers(num_pairs, size=batch_size)
    every = np.arange(batch_size)
    tokens[:, -1, 0], tokens[:, -1, 1] = question, keys[every, asked]
    labels[:, -1, 1] = values[every, asked]
    return _batch(tokens.reshape(batch_size, -1), labels.reshape(batch_size, -1))


def two_facts(
    step: int,
    *,
    batch_size: int,
    segment_length: int,
    segments: int,
    num_people: int,
    num_places: int,
    seed: int,
) -> Batch:
    """Two-fact reasoning: who has the thing, and where that person is; the question is where the thing is.

    The facts say where every person is and who has the thing, each in a segment drawn at random. The answer needs the
    fact about the thing and the one about its owner; the others are distractors. People are ids
    0 to ``num_people - 1``, places the ``num_places`` ids after them; then come the blank, "is at", "has the thing"
    and "where is the thing".

    Args:
        step: Number of the batch.
        batch_size: Rows.
        segment_length: Tokens of a segment, at least 3 for every fact.
        segments: Segments of a row; the last one holds the question and no fact.
        num_people: People, at least 2.
        num_places: Places.
        seed: Another seed gives other rows.

    Raises:
        ValueError: If a size is too small.
    """
    check_sizes(batch_size=batch_size, num_places=num_places, num_people=num_people, segments=segments)
    check_sizes(segment_length=segment_length)
    if num_people < 2 or segments < 2:
        raise ValueError(f"num_people and segments must be at least 2, but are {num_people} and {segments}.")
    if segment_length < 3 * (num_people + 1):
        raise ValueError(
            f"segment_length must have room for all facts, 3 * (num_people + 1) = {3 * (num_people + 1)} tokens, but "
            f"is {segment_length}."
        )
    random = np.random.default_rng((seed, step))
    blank = num_people + num_places
    is_at, has, where = blank + 1, blank + 2, blank + 3
    tokens = np.full((batch_size, segments, segment_length), blank)
    labels = np.full_like(tokens, IGNORED)
    for row in range(batch_size):
        places = num_people + random.integers(num_places, size=num_people)
        owner = int(random.integers(num_people))
        facts = [(is_at, person, place) for person, place in enumerate(places)] + [(has, owner, blank)]
        segment_of = random.integers(segments - 1, size=len(facts))
        for slot, fact in zip(random.permutation(len(facts)), facts, strict=True):
            tokens[row, segment_of[slot], 3 * slot : 3 * slot + 3] = fact
        tokens[row, -1, 0], labels[row, -1, 0] = where, places[owner]
    return _batch(tokens.reshape(batch_size, -1), labels.reshape(batch_size, -1))


def _said(
    step: int, batch_size: int, segment_length: int, segments: int, num_symbols: int, seed: int
) -> Int64[np.ndarray, "batch length"]:
    check_sizes(batch_size=batch_size, segment_length=segment_length, segments=segments, num_symbols=num_symbols)
    if segments % 2:
        raise ValueError(f"segments must be an even number, half of them for the answer, but are {segments}.")
    random = np.random.default_rng((seed, step))
    return random.integers(num_symbols, size=(batch_size, segments // 2 * segment_length))


def _repeated(said: Int64[np.ndarray, "batch length"], answer: Int64[np.ndarray, "batch length"], begin: int) -> Batch:
    tokens = np.concatenate([said, np.full((len(said), 1), begin), answer[:, :-1]], axis=1)
    return _batch(tokens, np.concatenate([np.full_like(said, IGNORED), answer], axis=1))


def _batch(tokens: Int64[np.ndarray, "batch time"], labels: Int64[np.ndarray, "batch time"]) -> Batch:
    starts = np.zeros(tokens.shape, dtype=np.bool_)
    starts[:, 0] = True
    return Batch(
        tokens=torch.from_numpy(np.ascontiguousarray(tokens)),
        labels=torch.from_numpy(np.ascontiguousarray(labels)),
        starts=torch.from_numpy(starts),
    )
