"""A recurrent memory around SmolLM2, natively over the converted decoder or by the wrapper of Hugging Face's model.

Both have one memory and the same weights; of LoRA, the same rank on all of attention's projections.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.racing.worker import Work
from benchmarks.workers.training_step import random_tokens, training_step
from retentive.checkpoints import load_model
from retentive.huggingface import HuggingFaceMemoryConfig, HuggingFaceRecurrentMemory
from retentive.models.protocol import LanguageModel
from retentive.models.rmt import RecurrentMemoryConfig, with_memory
from retentive.training.lora import add_lora

Kind = Literal["native", "wrapper"]


def works(
    *, kind: Kind, source: str, segment_length: int, num_memory_tokens: int, threads: int
) -> Mapping[str, Callable[..., Work]]:
    """The works of one of the two.

    Args:
        kind: Which.
        source: Folder of the converted model, or its GGUF file for the wrapper.
        segment_length: Tokens of a segment.
        num_memory_tokens: Memory tokens.
        threads: OpenMP threads.
    """
    torch.set_num_threads(threads)
    make = partial(_native if kind == "native" else _wrapper, source, segment_length, num_memory_tokens)
    return {"training_step": partial(_training_step, make), "read": partial(_read, make)}


def _native(source: str, segment_length: int, num_memory_tokens: int, rank: int) -> LanguageModel:
    backbone = load_model(source)
    config = RecurrentMemoryConfig(
        backbone=backbone.config, segment_length=segment_length, num_memory_tokens=num_memory_tokens, causal_memory=True
    )
    model = with_memory(backbone, config)
    if rank:
        add_lora(model, rank)
    return _same_memory(model)


def _wrapper(source: str, segment_length: int, num_memory_tokens: int, rank: int) -> LanguageModel:
    path = Path(source)
    backbone: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    backbone.requires_grad_(False)
    if rank:
        places = ["q_proj", "k_proj", "v_proj", "o_proj"]
        backbone = get_peft_model(backbone, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=places))
    config = HuggingFaceMemoryConfig(segment_length=segment_length, num_memory_tokens=num_memory_tokens)
    return _same_memory(HuggingFaceRecurrentMemory(backbone, config))


def _same_memory(model: Any) -> LanguageModel:
    initial: Tensor = model.memory.initial
    with torch.no_grad():
        initial.copy_(0.1 * torch.randn(initial.shape, generator=torch.Generator().manual_seed(0)))
    return model


def _training_step(make: Callable[[int], LanguageModel], *, time: int, rank: int) -> Work:
    """A step of the memory alone (``rank`` 0) or with LoRA, over all segments of a row."""
    model: Any = make(rank)

    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        loss = model(tokens, labels=labels, logits_to_keep=0).loss
        assert loss is not None
        return loss

    step = training_step(model, loss_of, vocab_size=model.vocab_size, time=time)
    with torch.no_grad():
        tokens = random_tokens(1, time + 1, model.vocab_size)
        loss = loss_of(tokens[:, :-1], tokens[:, 1:])
    return Work(run=step.run, units=step.units, facts={"loss": float(loss)})


def _read(make: Callable[[int], LanguageModel], *, time: int) -> Work:
    """Read a long text: the state after it, and the logits of its last token."""
    model: Any = make(0)
    tokens = random_tokens(1, time, model.vocab_size)
    model.eval()

    @torch.inference_mode()
    def run() -> Any:
        return model(tokens, logits_to_keep=1)

    return Work(run=run, units=time, facts={"largest": float(run().logits.max())})
