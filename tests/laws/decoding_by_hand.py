"""Generation without any cache: the whole text through the model again for every token."""

import torch

from retentive.generation import Sampling
from retentive.generation.sampling import choose
from retentive.generation.uniforms import uniforms
from retentive.models.base import DecoderModel


def lists(rows: list[torch.Tensor]) -> list[list[int]]:
    return [row.tolist() for row in rows]


def full_forward(model: DecoderModel, prompt: list[int], count: int, sampling: Sampling, row: int = 0) -> list[int]:
    """What generation must give."""
    text = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([text])).logits[:, -1]
        uniform = None
        if not sampling.is_greedy:
            assert sampling.seed is not None
            uniform = uniforms(sampling.seed, torch.tensor([row]), torch.tensor([len(text)]))[:, 0]
        text.append(int(choose(logits, sampling, uniform)))
    return text[len(prompt) :]
