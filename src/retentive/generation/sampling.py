"""Choosing the next token: the likeliest one, or one drawn by temperature, top-k and top-p."""

from dataclasses import dataclass
from math import isfinite

import numpy
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retentive.config_types import check_types

Probabilities = Float[Tensor, "rows vocab"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; ``Sampling()`` is greedy and always takes the likeliest.

    Attributes:
        temperature: Logits are divided by it: below 1 the likely gain, above 1 the unlikely, 0 is greedy.
        top_k: Draw among the k likeliest tokens only.
        top_p: Draw among the fewest tokens whose probability reaches p, the one that crosses it included (Holtzman et
            al. 2020, arXiv:1904.09751). With ``top_k``, p is a share of what the k tokens have together.
        seed: The same seed draws the same tokens, see `uniforms`; None takes one from torch's global generator.
        never: Ids that are not drawn, whatever the model says, such as rows of a table that no token has.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or a positive number, but is {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 token, but is {self.top_k}; None keeps all.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, but is {self.top_p}; None keeps all.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, but is {self.seed}.")
        given = {"top_k": self.top_k, "top_p": self.top_p, "seed": self.seed}
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


def choose(
    logits: Float[Tensor, "rows vocab"], sampling: Sampling, uniform: Float[Tensor, "rows"] | None
) -> Int[Tensor, "rows"]:
    """The next token of each row.

    Args:
        logits: Of the next token.
        sampling: How to choose.
        uniform: One number from 0 up to but not 1 for each row; greedy needs none.

    Returns:
        A token for each row; -1 where the logits hold NaN or infinity, of which none can be chosen.
    """
    if sampling.never:
        never = torch.tensor(sampling.never, device=logits.device)
        logits = logits.index_fill(-1, never, -torch.inf)
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
    if sampling.top_k is None and sampling.top_p in (None, 1.0):
        return probabilities
    return probabilities * kept(probabilities, sampling.top_k, sampling.top_p)


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
