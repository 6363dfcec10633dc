"""Sequence parallel: one text over several processes, each of which reads a part of it."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from retentive.layers.mixers.protocol import reads_parts
from retentive.models.base import DecoderModel
from retentive.models.decoder import blocks_of
from retentive.models.protocol import LanguageModel
from retentive.ops.precision import state_dtype
from retentive.training.objectives.protocol import Objective

_CURE = "share rows among the processes, and not columns (hardware.sequence_parallel=1)."


def read_in_parts(model: LanguageModel, group: dist.ProcessGroup | None) -> None:
    """Let each process of a group read its own part of the texts of every call; None lets each read whole texts again.

    The process of rank 0 calls the model with the first columns of every row, that of rank 1 with those that follow,
    and so on; parts may be of any length from one token on. All of them give the same ``state``, that before the whole
    text, and get the same one back, that after it. Logits and loss are of the own part, and so are the gradients of the
    weights: where each process calls backward on its share of the loss (the mean over its labels times their number,
    over the number of all labels), the gradients of one process with the whole text are the sum over the processes.

    Retention exchanges one state a layer, attention with a window the keys and values at the border. Attention without
    one gathers the keys and values of all parts, so that only its other activations fall with the number of processes.
    All processes must make the same calls; `LanguageModel.step` reads its token in each process by itself.

    Args:
        model: With the same weights in all processes. It is changed in place.
        group: The processes, in the order of their parts.

    Raises:
        ValueError: If the parts of a text cannot be read at the same time, by the model or one of its mixers.
    """
    checked = check_reads_parts(model)
    checked.decoder.exchange = None if group is None else GroupExchange(group)


def check_learns_in_parts(model: LanguageModel, objective: Objective) -> None:
    """Validate that processes that each read a part of a text can train a model together.

    Raises:
        ValueError: If the model cannot be read, or the objective not be measured in parts.
    """
    check_reads_parts(model)
    if not objective.reads_parts:
        raise ValueError(
            f"objective must be one that can be measured on each part of a text, such as next_token, but is "
            f"{type(objective).__name__}; {_CURE}"
        )


def check_reads_parts(model: LanguageModel) -> DecoderModel:
    """Validate that several processes can read the parts of a text at the same time; return the model.

    Raises:
        ValueError: If they cannot; the message says why.
    """
    if not isinstance(model, DecoderModel):
        raise ValueError(
            f"model must be of a family of this library to read a text in parts, but is a {type(model).__name__}; "
            f"{_CURE}"
        )
    if model.read_in_order is not None:
        raise ValueError(
            f"model must be of a family that can read the parts of a text at the same time, but is of "
            f"{model.config.family!r}: {model.read_in_order}; {_CURE}"
        )
    for block in blocks_of(model.decoder):
        if not reads_parts(block.mixer):
            raise ValueError(
                f"every mixer must read texts in parts, but {type(block.mixer).__name__} does not say that it can "
                f"(reads_parts = True); {_CURE}"
            )
    return model


class GroupExchange:
    """An `Exchange` over a process group of torch."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Find this process's place in the group."""
        self.group = group
        self.rank, self.count = dist.get_rank(group), dist.get_world_size(group)

    def share(self, numbers: Tensor) -> Tensor:
        """See `Exchange`."""
        return _gathered(numbers.detach(), self)

    def exchange(self, tensor: Tensor, through: Tensor) -> tuple[Tensor, Tensor]:
        """See `Exchange`."""
        found: tuple[Tensor, Tensor] = _Exchanged.apply(tensor, through, self)
        return found


class _Exchanged(torch.autograd.Function):
    """All processes' tensors; backward, each process gets the sum of all gradients of its own."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, through: Tensor, exchange: GroupExchange) -> tuple[Tensor, Tensor]:
        ctx.exchange = exchange
        return _gathered(tensor, exchange), through.view_as(through)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_all, through = gradients
        # Gradients of half types are summed in float32; a copy, as autograd may hand this tensor to others too.
        total = of_all.to(state_dtype(of_all.dtype), memory_format=torch.contiguous_format, copy=True)
        dist.all_reduce(total, group=ctx.exchange.group)
        return total[ctx.exchange.rank].to(of_all.dtype), through, None


def _gathered(tensor: Tensor, exchange: GroupExchange) -> Tensor:
    found = tensor.new_empty((exchange.count, *tensor.shape))
    dist.all_gather(list(found.unbind(0)), tensor.contiguous(), group=exchange.group)
    return found
