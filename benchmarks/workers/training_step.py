"""The training step that every contestant runs: same data, same optimizer, only the loss is the contestant's own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.racing.worker import Work

LossOf = Callable[[Tensor, Tensor], Tensor]
"""Tokens and labels, both ``(batch, time)``, to the mean loss. Labels are already shifted."""


def random_tokens(batch: int, time: int, vocab_size: int) -> Tensor:
    """Token ids, the same in every contestant's process."""
    return torch.randint(vocab_size, (batch, time), generator=torch.Generator().manual_seed(batch * time))


def random_neighbours(batch: int, chunks: int, k: int, length: int, vocab_size: int) -> Tensor:
    """Neighbours of every chunk, the same in every contestant's process."""
    generator = torch.Generator().manual_seed(chunks)
    return torch.randint(vocab_size, (batch, chunks, k, length), generator=generator)


def products_in(precision: str) -> torch.autocast:
    """The context in which products are in a precision; weights stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def training_step(model: nn.Module, loss_of: LossOf, *, vocab_size: int, time: int, precision: str = "float32") -> Work:
    """Forward, loss, backward and AdamW step on one row of ``time`` tokens, counted in tokens.

    With ``precision="bfloat16"`` the forward pass runs under autocast, as that of `retentive train`; weights stay
    float32.
    """

    def activation_backward(tokens: Tensor, labels: Tensor) -> None:
        with products_in(precision):
            loss = loss_of(tokens, labels)
        loss.backward()

    return optimizer_step(model, activation_backward, vocab_size=vocab_size, time=time)


def optimizer_step(
    model: nn.Module, activation_backward: Callable[[Tensor, Tensor], None], *, vocab_size: int, time: int
) -> Work:
    """The same for ways that go backward by themselves: ``activation_backward`` adds gradients, of tokens and labels.

    AdamW is torch's fused one for every contestant, the fastest on a CPU, so that it hides as little as it can.
    """
    text = random_tokens(1, time + 1, vocab_size)
    tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        activation_backward(tokens, labels)
        optimizer.step()

    return Work(run=run, units=time)
