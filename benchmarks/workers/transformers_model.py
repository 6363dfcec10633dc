"""The works of a model in transformers: ``generate`` and its cache, as a user calls them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.racing.worker import Work


def works(*, file: str, threads: int) -> Mapping[str, Callable[..., Work]]:
    """The works, over the model of a GGUF file in float32.

    Args:
        file: Its path.
        threads: OpenMP threads.
    """
    torch.set_num_threads(threads)
    path = Path(file)
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return {"decode": partial(_decode, model.eval()), "nats": partial(_nats, model)}


def _decode(model: Any, *, tokens: Sequence[int], batch: int, steps: int) -> Work:
    """Greedy tokens after some, whose keys and values are there; the cache is cut back to them each time."""
    text, cache = torch.tensor([tokens] * batch), DynamicCache(config=model.config)
    with torch.inference_mode():
        model(text[:, :-1], cache=cache)
    read = text.shape[1] - 1
    whole = torch.ones_like(text)

    def run() -> Tensor:
        if (new := cache.get_seq_length() - read) > 0:
            cache.crop(-new)
        return model.generate(
            text,
            attention_mask=whole,
            cache=cache,
            do_sample=False,
            min_new_tokens=steps,
            max_new_tokens=steps,
            pad_token_id=0,
        )

    assert run().shape[1] == len(tokens) + steps
    return Work(run=run, units=steps)


@torch.inference_mode()
def _nats(model: Any, *, tokens: Sequence[int], read: int) -> Work:
    """Nats a token of a text, after ``read`` tokens of it."""
    text = torch.tensor(tokens)
    logits = model(text[None]).logits[0, read - 1 : -1]
    return Work(run=lambda: None, facts={"nats": float(cross_entropy(logits, text[read:]))})
