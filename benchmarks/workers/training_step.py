"""The training step that every contestant runs: same data, same optimizer, only the loss is the contestant's own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.worker import Work

LossOf = Callable[[Tensor, Tensor], Tensor]
"""Tokens and labels, both ``(batch, time)``, to the mean loss. Labels are already shifted."""


def random_tokens(batch: int, time: int, vocab_size: int) -> Tensor:
    """Token ids, the same in every contestant's process."""
    return torch.randint(vocab_size, (batch, time), generator=torch.Generator().manual_seed(batch * time))


def training_step(model: nn.Module, loss_of: LossOf, *, vocab_size: int, time: int) -> Work:
    """Forward, loss, backward and AdamW step on one row of ``time`` tokens, counted in tokens.

    AdamW is torch's fused one for every contestant, the fastest on a CPU, so that it hides as little as it can.
    """
    text = random_tokens(1, time + 1, vocab_size)
    tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss_of(tokens, labels).backward()
        optimizer.step()

    return Work(run=run, units=time)
