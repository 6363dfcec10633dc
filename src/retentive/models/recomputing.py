"""Blocks that forget what they computed, and compute it again in the backward pass."""

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from torch import nn

from retentive.models.base import DecoderModel
from retentive.private_apis import place_of_forward


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
        _recompute_no_longer(block)
        if recompute is not None and index % every == 0:
            held, place = vars(block), place_of_forward(block)
            held["recompute"] = recompute
            # What another library has put in place of the class's own.
            held["forward_before"] = held.get(place)
            # A method, so that a copy of the block recomputes itself and not the block that it was copied from.
            held[place] = MethodType(_recomputed, block)


def is_recomputed(block: nn.Module) -> bool:
    """Whether what stands in place of a block's ``forward`` is what `set_recomputing` has put there, and no more."""
    held = vars(block)
    return getattr(held.get("forward"), "__func__", None) is _recomputed and held["forward_before"] is None


def _recompute_no_longer(block: nn.Module) -> None:
    """Undo `set_recomputing`, and leave what others have put around the block's computation."""
    held, place = vars(block), place_of_forward(block)
    if getattr(held.get(place), "__func__", None) is not _recomputed:
        return
    before = held.pop("forward_before")
    if before is None and place == "forward":
        del held[place]
    else:
        held[place] = before or MethodType(cast("Any", type(block)).forward, block)


def _recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a block as it did before, and keep its arguments alone where a gradient will be asked for.

    A block between whose halves new neighbours are read keeps everything: they are encoded once for all layers.
    """
    forward = vars(block)["forward_before"] or MethodType(cast("Any", type(block)).forward, block)
    between = kwargs.get("between")
    can_be_repeated = between is None or getattr(between, "can_be_repeated", False)
    if not block.training or not torch.is_grad_enabled() or not can_be_repeated:
        return forward(*args, **kwargs)
    return cast("Any", block).recompute(forward, *args, **kwargs)
