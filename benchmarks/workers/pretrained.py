"""The works of a pretrained model of this library, out of its folder."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from benchmarks.racing.worker import Work
from retentive.checkpoints import load_model
from retentive.engine.choice import make_steps
from retentive.generation import generate
from retentive.models.protocol import LanguageModel


def works(*, folder: str, threads: int) -> Mapping[str, Callable[..., Work]]:
    """The works, over one model.

    Args:
        folder: Of the model.
        threads: OpenMP threads.
    """
    torch.set_num_threads(threads)
    model = load_model(folder)
    return {"decode": partial(_decode, model), "nats": partial(_nats, model)}


def _decode(
    model: LanguageModel, *, tokens: Sequence[int], batch: int, steps: int, engine: str, bits: int = 32
) -> Work:
    """Greedy tokens after some; each repetition starts from the same state.

    A step must read every weight once (the head is the table of tokens), in so many ``bits``, and the keys and values.
    """
    state = generate(model, torch.tensor([tokens] * batch), max_new_tokens=1).state
    weights = sum(tensor.nbytes for tensor in model.parameters()) * bits / 32
    return Work(
        run=lambda: generate(model, state=state, max_new_tokens=steps, engine=engine),
        units=steps,
        facts={"step_bytes": weights + state.model.size_in_bytes},
    )


@torch.inference_mode()
def _nats(model: LanguageModel, *, tokens: Sequence[int], read: int, engine: str) -> Work:
    """How well an engine's steps predict: nats a token of a text, after ``read`` tokens of it."""
    steps = make_steps(model, engine)
    steps.begin()
    logits, state = steps.read(torch.tensor([tokens[:read]]), None, None, {}, keep=1)
    assert logits is not None
    state, lost = steps.own(state), 0.0
    for token in torch.tensor(tokens[read:]).split(1):
        lost += float(cross_entropy(logits, token))
        logits, state = steps.step(token, state, {})
    return Work(run=lambda: None, facts={"nats": lost / (len(tokens) - read)})
