"""Blocks that forget what they computed, and compute it again in the backward pass."""

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from torch import nn

from retentive.models.base import DecoderModel


def set_recomputing(model: DecoderModel, recompute: Callable[..., Any] | None, every: int = 1) -> None:
    """Let each block of a model be recomputed in training, or no longer; blocks that read new neighbours never are.

    Args:
        model: Of any family. One that reads segments recomputes whole segments, by a way of its own.
        recompute: Calls a function with arguments and forgets what it computed, as `torch.utils.checkpoint.checkpoint`
            does; None recomputes nothing.
        every: Of so many blocks, the first is recomputed.
    """
    if model.recomputes_segments is not None:
        model.recomputes_segments = recompute is not None
        return
    for index, block in enumerate(model.decoder.blocks):
        vars(block).pop("forward", None)
        if recompute is not None and index % every == 0:
            vars(block)["recompute"] = recompute
            # A method, so that a copy of the block recomputes itself and not the block that it was copied from.
            vars(block)["forward"] = MethodType(_recomputed, block)


def _recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a block as its class does, and keep its arguments alone where a gradient will be asked for.

    A block between whose halves new neighbours are read keeps everything: they are encoded once for all layers.
    """
    forward = MethodType(cast("Any", type(block)).forward, block)
    between = kwargs.get("between")
    can_be_repeated = between is None or getattr(between, "can_be_repeated", False)
    if not block.training or not torch.is_grad_enabled() or not can_be_repeated:
        return forward(*args, **kwargs)
    return cast("Any", block).recompute(forward, *args, **kwargs)
