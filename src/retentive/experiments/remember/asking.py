"""Does the state still know the word, some segments after it was told? Answers by distance, with controls."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from retentive.evaluation.measures.mode import evaluating
from retentive.experiments.recall.answers import Row
from retentive.experiments.recall.questions import MEMORY, SHUFFLED, ZEROED, zeros_of
from retentive.experiments.recall.report import NO_MEMORY
from retentive.experiments.remember.texts import Facts, asking, stretches, telling
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState

Words = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """How a model is asked.

    Attributes:
        distances: Segments from the one that tells the word to the one that asks for it, ascending.
        trials: Texts of each kind of word; 2 or more, since the memory of one is a control of another.
        rows: Most texts that are read side by side.
        segment_length: Tokens of a segment.
        seed: Decides texts.
    """

    distances: tuple[int, ...]
    trials: int
    rows: int
    segment_length: int
    seed: int


def answers(
    model: LanguageModel,
    facts: Facts,
    words: Words,
    asked: Questions,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> list[Row]:
    """Ask after each distance; the state that is asked after goes on to the next distance.

    Args:
        model: With a memory.
        facts: What texts are made of.
        words: Those that are told.
        asked: How.
        on_rows: Called with the number of texts that were read.
    """
    hits = {(what, distance): 0 for what in (MEMORY, ZEROED, SHUFFLED, NO_MEMORY) for distance in asked.distances}
    with evaluating(model):
        for begin, rows in parts_of(asked.trials, asked.rows):
            random = np.random.default_rng((asked.seed, begin))
            chosen = [words[number] for number in random.permutation(len(words))[:rows]]
            for key, right in _ask(model, facts, chosen, asked, random).items():
                hits[key] += right
            on_rows(rows)
    return [
        Row(what=what, length=distance, depth=None, hits=right, trials=asked.trials)
        for (what, distance), right in hits.items()
    ]


def parts_of(trials: int, rows: int) -> list[tuple[int, int]]:
    """First text and number of texts of parts that are read side by side; none is alone, without another's memory."""
    parts = np.array_split(np.arange(trials), math.ceil(trials / rows))
    return [(int(part[0]), len(part)) for part in parts]


def _ask(
    model: LanguageModel, facts: Facts, words: Words, asked: Questions, random: np.random.Generator
) -> dict[tuple[str, int], int]:
    rows, length = len(words), asked.segment_length
    told = telling(facts, words, stretches(facts.asked_filler, rows, length, random), random)
    state = model(torch.from_numpy(told), logits_to_keep=0).state
    right: dict[tuple[str, int], int] = {}
    for before, distance in pairwise((1, *asked.distances)):
        for _ in range(distance - before):
            piece = stretches(facts.asked_filler, rows, length, random)
            state = model(torch.from_numpy(piece), state, logits_to_keep=0).state
        question = torch.from_numpy(asking(facts, words, stretches(facts.asked_filler, rows, length, random)))
        others: ModelState = state.select(torch.arange(rows).roll(1))
        for what, known in (
            (MEMORY, state),
            (ZEROED, zeros_of(state)),
            (SHUFFLED, others),
            (NO_MEMORY, None),
        ):
            right[what, distance] = int(_is_right(model, question, known, words).sum())
    return right


def _is_right(model: LanguageModel, question: Tensor, state: ModelState | None, words: Words) -> Bool[Tensor, "rows"]:
    """Whether every token of a row's word is the likeliest of all."""
    longest = max(len(word) for word in words)
    logits = model(question, state, logits_to_keep=longest).logits
    assert logits is not None
    found = logits.argmax(-1)
    return torch.tensor([found[row, -len(word) :].tolist() == list(word) for row, word in enumerate(words)])
