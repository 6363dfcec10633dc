"""The training step of a Llama of Hugging Face's transformers, eager and through ``torch.compile``."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.racing.worker import Work
from benchmarks.workers.training_step import training_step


def works(
    *, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, intermediate_size: int, threads: int
) -> Mapping[str, Callable[..., Work]]:
    """The works, over one model of the given shape, with torch's own attention."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=8192,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return {"training_step": partial(_training_step, model, vocab_size)}


def _training_step(
    model: LlamaForCausalLM, vocab_size: int, *, time: int, compiled: bool = False, precision: str = "float32"
) -> Work:
    if compiled:
        torch.compiler.reset()
        cast("nn.Module", model).compile()

    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        logits = model(input_ids=tokens).logits
        assert logits is not None
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    step = training_step(cast("nn.Module", model), loss_of, vocab_size=vocab_size, time=time, precision=precision)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Work(run=step.run, units=step.units, facts={"parameters": float(parameters)})
