"""Generation without any cache: the whole text through the model again, for every token or for all of them."""

import torch

from retentive.checkpoints.states import no_counts
from retentive.generation import Sampling
from retentive.generation.sampling import add_counts, begin_counts, choose
from retentive.generation.uniforms import uniforms
from retentive.models.base import DecoderModel


def lists(rows: list[torch.Tensor]) -> list[list[int]]:
    return [row.tolist() for row in rows]


class _Choices:
    """Chooses the tokens of a row one after another."""

    def __init__(self, model: DecoderModel, prompt: list[int], sampling: Sampling, row: int) -> None:
        self._counts = begin_counts(no_counts(1, model.vocab_size, model.device), torch.tensor([prompt]), None)
        self._sampling, self._row, self._position = sampling, row, len(prompt)

    def choose(self, logits: torch.Tensor) -> int:
        uniform = None
        if not self._sampling.is_greedy:
            assert self._sampling.seed is not None
            place = torch.tensor([self._row]), torch.tensor([self._position])
            uniform = uniforms(self._sampling.seed, *place)[:, 0]
        token = choose(logits, self._sampling, uniform, self._counts)
        add_counts(self._counts, token)
        self._position += 1
        return int(token)


def full_forward(model: DecoderModel, prompt: list[int], count: int, sampling: Sampling, row: int = 0) -> list[int]:
    """What generation must give."""
    text, choices = list(prompt), _Choices(model, prompt, sampling, row)
    for _ in range(count):
        text.append(choices.choose(model(torch.tensor([text])).logits[:, -1]))
    return text[len(prompt) :]


def one_forward(model: DecoderModel, prompt: list[int], said: list[int], sampling: Sampling, row: int = 0) -> list[int]:
    """What generation must give at each place of what it said, by one call over the whole.

    It is what was said if and only if that is what `full_forward` gives: a token's logits depend on nothing after it
    (`test_causality.py`), and so the first wrong token is found.
    """
    choices = _Choices(model, prompt, sampling, row)
    logits = model(torch.tensor([[*prompt, *said[:-1]]])).logits[0, len(prompt) - 1 :]
    return [choices.choose(each) for each in logits.split(1)]
