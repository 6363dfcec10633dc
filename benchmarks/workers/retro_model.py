"""The works of our RETRO."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.racing.worker import Work
from benchmarks.workers.training_step import random_neighbours, random_tokens, training_step
from retentive.generation import generate
from retentive.models.registry import build, config_from_dict
from retentive.models.retro import Retro


def works(*, config: dict[str, Any], neighbours: int, threads: int) -> Mapping[str, Callable[..., Work]]:
    """The works, over one model.

    Args:
        config: What `retentive.models.registry.config_from_dict` reads.
        neighbours: Of each chunk, each two chunks long.
        threads: OpenMP threads.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build(config_from_dict(config))
    assert isinstance(model, Retro)
    return {"training_step": partial(_training_step, model, neighbours), "decode": partial(_decode, model, neighbours)}


def _training_step(model: Retro, k: int, *, time: int, precision: str = "float32") -> Work:
    size, vocab_size = model.config.chunk_size, model.config.vocab_size
    found = random_neighbours(1, time // size, k, 2 * size, vocab_size)

    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        loss = model(tokens, labels=labels, neighbours=found, logits_to_keep=0).loss
        assert loss is not None
        return loss

    work = training_step(model, loss_of, vocab_size=vocab_size, time=time, precision=precision)
    return Work(run=work.run, units=work.units, facts={"parameters": float(sum(p.numel() for p in model.parameters()))})


def _decode(model: Retro, k: int, *, context: int, steps: int) -> Work:
    """Greedy tokens after ``context``, as `generate` writes them, neighbours encoded whenever a chunk ends."""
    size, vocab_size = model.config.chunk_size, model.config.vocab_size

    def find(chunks: Tensor) -> Tensor:
        return random_neighbours(len(chunks), 1, k, 2 * size, vocab_size)[:, 0]

    model.eval()
    before = generate(model, random_tokens(1, context, vocab_size), max_new_tokens=1, retriever=find).state
    return Work(
        run=lambda: generate(model, state=before, max_new_tokens=steps, retriever=find),
        units=steps,
        facts={"state_bytes": before.model.size_in_bytes},
    )
