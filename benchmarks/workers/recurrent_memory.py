"""The works of a recurrent memory of this library that other families do not have."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.racing.worker import Work, peak_resident_bytes, start_of_peak
from benchmarks.workers.training_step import optimizer_step, random_tokens, training_step
from retentive.generation import Sampling, generate
from retentive.models.registry import config_from_dict
from retentive.models.rmt import RecurrentMemoryTransformer
from retentive.training.step.pieces import cut_text
from retentive.training.step.replay import replay


def works(*, config: dict[str, Any], threads: int) -> Mapping[str, Callable[..., Work]]:
    """The works, over one model.

    Args:
        config: What `retentive.models.registry.config_from_dict` reads, of the family ``rmt``.
        threads: OpenMP threads.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(config_from_dict(config))
    return {
        "training_step": partial(_training_step, model),
        "replay_step": partial(_replay_step, model),
        "generate": partial(_generate, model),
        "read_segment": partial(_read_segment, model),
    }


def _training_step(model: RecurrentMemoryTransformer, *, time: int, precision: str = "float32") -> Work:
    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        loss = model(tokens, labels=labels, logits_to_keep=0).loss
        assert loss is not None
        return loss

    work = training_step(model, loss_of, vocab_size=model.config.vocab_size, time=time, precision=precision)
    facts = {"parameters": float(sum(parameter.numel() for parameter in model.parameters()))}
    return Work(run=work.run, units=work.units, facts=facts)


def _replay_step(model: RecurrentMemoryTransformer, *, time: int) -> Work:
    def activation_backward(tokens: Tensor, labels: Tensor) -> None:
        replay(cut_text(model, tokens, labels, length=model.config.segment_length), None)

    return optimizer_step(model, activation_backward, vocab_size=model.config.vocab_size, time=time)


def _generate(model: RecurrentMemoryTransformer, *, prompt: int, steps: int) -> Work:
    """Sampled tokens after a prompt that is read anew each time, as the other package does."""
    tokens = random_tokens(1, prompt, model.config.vocab_size)
    sampling = Sampling(temperature=1.0, seed=0)
    return Work(run=lambda: generate(model, tokens, max_new_tokens=steps, sampling=sampling), units=steps)


def _read_segment(model: RecurrentMemoryTransformer, *, segment: int) -> Work:
    """One more segment after ``segment`` of them; facts are what the process needed to get there."""
    length, vocab_size = model.config.segment_length, model.config.vocab_size
    step, state = 8, None
    warm = 0
    with torch.inference_mode():
        for begin in range(0, segment, step):
            tokens = random_tokens(1, min(step, segment - begin) * length, vocab_size)
            state = model.eval()(tokens, state, logits_to_keep=0).state
            if begin == 0:
                warm = start_of_peak()
    growth = peak_resident_bytes() - warm if Path("/proc/self/status").exists() else 0
    following = random_tokens(1, length, vocab_size)

    @torch.inference_mode()
    def run() -> None:
        model.eval()(following, state, logits_to_keep=0)

    assert state is not None
    return Work(run=run, facts={"growth_bytes": float(growth), "state_bytes": float(state.size_in_bytes)})
