"""Choosing the next token: the likeliest one, or one drawn by temperature, top-k and top-p."""

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import cast

import numpy
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retentive.checkpoints.states import TokenCounts
from retentive.config_types import check_types
from retentive.shapes import TokenFlags, Tokens

_LARGEST = 1e4
"""Of what is added to a logit, or multiplied with it: far above any logit, and far below where float16 ends."""

Probabilities = Float[Tensor, "rows vocab"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; ``Sampling()`` is greedy and always takes the likeliest.

    Attributes:
        temperature: Logits are divided by it: below 1 the likely gain, above 1 the unlikely, 0 is greedy.
        top_k: Draw among the k likeliest tokens only.
        top_p: Draw among the fewest tokens whose probability reaches p, the one that crosses it included (Holtzman et
            al. 2020, arXiv:1904.09751). With ``top_k``, p is a share of what the k tokens have together.
        min_p: Draw among tokens that are at least this share as likely as the likeliest (Nguyen et al. 2024,
            arXiv:2407.01082). With ``top_k`` or ``top_p``, among those that both leave.
        seed: The same seed draws the same tokens, see `uniforms`; None takes one from torch's global generator.
        never: Ids that are not drawn, whatever the model says, such as rows of a table that no token has.
        repetition_penalty: Logits of tokens that stand in the text so far, prompts included, are divided by it where
            they are positive and multiplied by it where they are negative (Keskar et al. 2019, arXiv:1909.05858);
            above 1 they come again more seldom.
        presence_penalty: Subtracted from the logit of each token that was chosen before.
        frequency_penalty: Subtracted from the logit of each token as often as it was chosen before.
        logit_bias: Pairs of an id and what is added to its logit, after the penalties; from -10000 to 10000.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    never: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        _check_bias(self.logit_bias)
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or a positive number, but is {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 token, but is {self.top_k}; None keeps all.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, but is {self.top_p}; None keeps all.")
        if self.min_p is not None and not 0 < self.min_p <= 1:
            raise ValueError(f"min_p must be above 0 and at most 1, but is {self.min_p}; None keeps all.")
        if not 1 / _LARGEST <= self.repetition_penalty <= _LARGEST:
            raise ValueError(
                f"repetition_penalty must be from {1 / _LARGEST} to {_LARGEST:.0f}, but is {self.repetition_penalty}; "
                "1 is none."
            )
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, but is {self.seed}.")
        for name in ("presence_penalty", "frequency_penalty"):
            if abs(getattr(self, name)) > _LARGEST:
                raise ValueError(
                    f"{name} must be from -{_LARGEST:.0f} to {_LARGEST:.0f}, but is {getattr(self, name)}; 0 is none."
                )
        given = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p, "seed": self.seed}
        useless = [f"{name}={value}" for name, value in given.items() if value is not None]
        if self.is_greedy and useless:
            raise ValueError(
                f"temperature must be above 0 for {', '.join(useless)} to mean anything, but is 0 (greedy); "
                "1.0 draws from the model's own probabilities."
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0

    @property
    def has_penalties(self) -> bool:
        """Whether the choice depends on which tokens the text has."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def check_vocab(self, vocab_size: int) -> None:
        """Validate that the model has the ids.

        Raises:
            ValueError: If one is not in the vocabulary.
        """
        for name, ids in (("never", self.never), ("logit_bias", [token for token, _ in self.logit_bias])):
            foreign = [token for token in ids if not 0 <= token < vocab_size]
            if foreign:
                raise ValueError(
                    f"every id of {name} must be from 0 to vocab_size - 1 = {vocab_size - 1}, but {foreign[0]} is not; "
                    "is it of another tokenizer?"
                )


def choose(
    logits: Float[Tensor, "rows vocab"],
    sampling: Sampling,
    uniform: Float[Tensor, "rows"] | None,
    counts: TokenCounts | None = None,
) -> Int[Tensor, "rows"]:
    """The next token of each row.

    Args:
        logits: Of the next token.
        sampling: How to choose.
        uniform: One number from 0 up to but not 1 for each row; greedy needs none.
        counts: Which tokens the text of each row has; where there are penalties.

    Returns:
        A token for each row; -1 where the logits hold NaN or infinity, of which none can be chosen.
    """
    if counts is not None and sampling.has_penalties:
        logits = penalised(logits, sampling, counts)
    if sampling.logit_bias:
        ids, biases = zip(*sampling.logit_bias, strict=True)
        bias = _constant(biases, logits.dtype, logits.device)
        logits = logits.index_add(-1, _constant(ids, torch.long, logits.device), bias.expand(len(logits), -1))
    if sampling.never:
        logits = logits.index_fill(-1, _constant(tuple(sampling.never), torch.long, logits.device), -torch.inf)
    if sampling.is_greedy:
        return _likeliest(logits)
    assert uniform is not None
    probabilities = token_probabilities(logits, sampling)
    # In float64 a number below 1 times the sum stays below the sum, so no token of probability 0 is ever drawn.
    cumulative = probabilities.cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    # Nothing is above NaN: the search ends behind the last token.
    return tokens.where(tokens < logits.shape[-1], -1)


@lru_cache(maxsize=256)
def _constant(numbers: tuple[int | float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of a sampling as a tensor: made for each token anew, it would be copied to a GPU each time."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


def _check_bias(bias: object) -> None:
    """Validate pairs of an id and a number."""
    cure = "give pairs, as in ((42, -5.0),), or tuple(bias.items()) of a dict"
    if not isinstance(bias, tuple):
        raise TypeError(f"logit_bias must be a tuple, but is a {type(bias).__name__}: {cure}.")
    ids: list[int] = []
    for pair in cast("tuple[object, ...]", bias):
        match pair:
            case (int() as token, int() | float() as value) if (
                not isinstance(token, bool) and not isinstance(value, bool) and abs(value) <= _LARGEST
            ):
                ids.append(token)
            case _:
                raise ValueError(
                    f"logit_bias must be pairs of a token id and a number from -{_LARGEST:.0f} to {_LARGEST:.0f}, but "
                    f"one is {pair!r}: {cure}; ids of `never` are not drawn at all."
                )
    twice = sorted(token for token in set(ids) if ids.count(token) > 1)
    if twice:
        raise ValueError(f"logit_bias must name each id once, but has {twice[0]} twice: add the two.")


def _likeliest(logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, "rows"]:
    """The token with the largest logit; NaN counts as the largest, and -1 tells of it."""
    if logits.device.type != "cpu" or logits.dtype not in (torch.float32, torch.float64):
        largest, tokens = logits.max(-1)
        return tokens.where(largest.isfinite(), -1)
    # numpy compares with vector instructions, five times faster than torch on a CPU.
    numbers = logits.detach().numpy()
    found = numbers.argmax(-1)
    for row, token in enumerate(found):
        if not isfinite(numbers[row, token]):
            found[row] = -1
    return torch.from_numpy(found)


def token_probabilities(logits: Float[Tensor, "rows vocab"], sampling: Sampling) -> Probabilities:
    """What tokens are drawn by, in float64: 0 for those left out; the others need not sum to 1.

    Args:
        logits: Of the next token.
        sampling: Its temperature is above 0.
    """
    wide = logits.to(torch.float64)
    # Subtracted first: the quotient of the largest is 0 however small the temperature is.
    probabilities = ((wide - wide.amax(-1, keepdim=True)) / sampling.temperature).softmax(-1)
    left = probabilities
    if sampling.top_k is not None or sampling.top_p not in (None, 1.0):
        left = probabilities * kept(probabilities, sampling.top_k, sampling.top_p)
    if sampling.min_p is not None:
        left = left * (probabilities >= sampling.min_p * probabilities.amax(-1, keepdim=True))
    return left


def penalised(
    logits: Float[Tensor, "rows vocab"], sampling: Sampling, counts: TokenCounts
) -> Float[Tensor, "rows vocab"]:
    """Logits after the penalties on tokens that the text of each row has."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if sampling.repetition_penalty != 1:
        again = torch.where(wide > 0, wide / sampling.repetition_penalty, wide * sampling.repetition_penalty)
        wide = again.where(counts.read | (counts.said > 0), wide)
    return wide - sampling.presence_penalty * (counts.said > 0) - sampling.frequency_penalty * counts.said


def begin_counts(counts: TokenCounts, tokens: Tokens, mask: TokenFlags) -> TokenCounts:
    """The counts after a prompt is read."""
    read = torch.zeros_like(counts.said)
    read.scatter_add_(1, tokens, (torch.ones_like(tokens) if mask is None else mask).to(read.dtype))
    # A token that was chosen, such as the one that was not read yet, counts as that.
    return TokenCounts(read=counts.read | ((read > 0) & (counts.said == 0)), said=counts.said.clone())


def add_counts(counts: TokenCounts, tokens: Int[Tensor, "rows"]) -> None:
    """Count the tokens that were chosen, in place."""
    counts.said.scatter_add_(1, tokens[:, None], torch.ones_like(tokens[:, None], dtype=counts.said.dtype))


def kept(probabilities: Probabilities, top_k: int | None, top_p: float | None) -> Bool[Tensor, "rows vocab"]:
    """Which tokens top-k and top-p leave; of tokens with equal probability those with the lowest ids stay.

    Args:
        probabilities: Each row's sum is 1.
        top_k: How many to keep.
        top_p: Keep the fewest that reach this share, at least one.
    """
    vocab = probabilities.shape[-1]
    if top_k is not None:
        ranked = probabilities.topk(min(top_k, vocab)).values
        total = ranked.sum(-1, keepdim=True)
    else:
        total = probabilities.sum(-1, keepdim=True)
        ranked = _ranked(probabilities)
    count = torch.full_like(total, ranked.shape[-1], dtype=torch.long)
    if top_p is not None and top_p < 1:
        below = (ranked.cumsum(-1) < top_p * total).sum(-1, keepdim=True)
        count = torch.minimum(below + 1, count)
    lowest = ranked.gather(-1, count - 1)
    above, level = probabilities > lowest, probabilities == lowest
    room = count - above.sum(-1, keepdim=True)
    return above | (level & (level.cumsum(-1) <= room))


def _ranked(probabilities: Probabilities) -> Probabilities:
    """Probabilities from the largest down."""
    if probabilities.device.type != "cpu":
        return probabilities.sort(-1, descending=True).values
    # numpy sorts with vector instructions, about 13 times faster than torch on a CPU.
    rising = numpy.sort(probabilities.detach().numpy(), axis=-1)
    return torch.from_numpy(rising).flip(-1)
