"""Generation without any cache: the whole text through the model again for every token."""

import torch

from retentive.checkpoints.states import no_counts
from retentive.generation import Sampling
from retentive.generation.sampling import add_counts, begin_counts, choose
from retentive.generation.uniforms import uniforms
from retentive.models.base import DecoderModel


def lists(rows: list[torch.Tensor]) -> list[list[int]]:
    return [row.tolist() for row in rows]


def full_forward(model: DecoderModel, prompt: list[int], count: int, sampling: Sampling, row: int = 0) -> list[int]:
    """What generation must give."""
    text = list(prompt)
    counts = begin_counts(no_counts(1, model.vocab_size, model.device), torch.tensor([prompt]), None)
    for _ in range(count):
        logits = model(torch.tensor([text])).logits[:, -1]
        uniform = None
        if not sampling.is_greedy:
            assert sampling.seed is not None
            uniform = uniforms(sampling.seed, torch.tensor([row]), torch.tensor([len(text)]))[:, 0]
        token = choose(logits, sampling, uniform, counts)
        add_counts(counts, token)
        text.append(int(token))
    return text[len(prompt) :]
