"""The works of the ``recurrent-memory-transformer-pytorch`` package (0.7.0).

Its wrapper cuts the segments, shifts the labels and generates. With recalled keys (XL memories) on, its plain pass
makes them and passes none on; its memory replay reads with them. It is asked both with its default attention and with
torch's fused one (``use_flash_attn``).
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from recurrent_memory_transformer_pytorch import RecurrentMemoryTransformer, RecurrentMemoryTransformerWrapper
from torch import Tensor

from benchmarks.racing.worker import Work
from benchmarks.workers.training_step import optimizer_step, random_tokens, training_step


def works(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    segment_length: int,
    num_memory_tokens: int,
    recalls: bool,
    fused_attention: bool,
    threads: int,
) -> Mapping[str, Callable[..., Work]]:
    """The works, over one model of the given shape."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = RecurrentMemoryTransformerWrapper(
        RecurrentMemoryTransformer(
            dim=hidden_size,
            num_tokens=vocab_size,
            depth=num_layers,
            heads=num_heads,
            dim_head=hidden_size // num_heads,
            seq_len=segment_length,
            num_memory_tokens=num_memory_tokens,
            use_xl_memories=recalls,
            use_flash_attn=fused_attention,
            num_residual_streams=1,
        )
    )
    return {
        "training_step": partial(_training_step, model, vocab_size),
        "recalling_step": partial(_recalling_step, model, vocab_size),
        "replay_step": partial(_replay_step, model, vocab_size),
        "generate": partial(_generate, model, vocab_size),
    }


def _training_step(
    model: RecurrentMemoryTransformerWrapper, vocab_size: int, *, time: int, precision: str = "float32"
) -> Work:
    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        loss, _ = model(_text(tokens, labels), return_loss=True)
        return loss

    return _with_parameters(model, training_step(model, loss_of, vocab_size=vocab_size, time=time, precision=precision))


def _recalling_step(
    model: RecurrentMemoryTransformerWrapper, vocab_size: int, *, time: int, precision: str = "float32"
) -> Work:
    """The training step of its plain pass, with the recalled keys passed on as its replay and generation do."""
    inner = model.transformer

    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        memories = recalled = None
        losses: list[Tensor] = []
        segments = zip(tokens.split(model.seq_len, 1), labels.split(model.seq_len, 1), strict=True)
        for segment, following in segments:
            loss, memories, recalled = inner(segment, memories, labels=following, xl_memories=recalled)
            losses.append(loss * (segment.shape[1] / tokens.shape[1]))
        return torch.stack(losses).sum()

    return _with_parameters(model, training_step(model, loss_of, vocab_size=vocab_size, time=time, precision=precision))


def _replay_step(model: RecurrentMemoryTransformerWrapper, vocab_size: int, *, time: int) -> Work:
    def activation_backward(tokens: Tensor, labels: Tensor) -> None:
        model(_text(tokens, labels), memory_replay_backprop=True)

    return _with_parameters(model, optimizer_step(model, activation_backward, vocab_size=vocab_size, time=time))


def _with_parameters(model: RecurrentMemoryTransformerWrapper, work: Work) -> Work:
    facts = {"parameters": float(sum(parameter.numel() for parameter in model.parameters()))}
    return Work(run=work.run, units=work.units, facts=facts)


def _text(tokens: Tensor, labels: Tensor) -> Tensor:
    """One token more than is read: the package shifts by itself."""
    return torch.cat((tokens, labels[:, -1:]), 1)


def _generate(model: RecurrentMemoryTransformerWrapper, vocab_size: int, *, prompt: int, steps: int) -> Work:
    tokens = random_tokens(1, prompt, vocab_size)
    return Work(run=lambda: model.generate(tokens, length=prompt + steps), units=steps)
