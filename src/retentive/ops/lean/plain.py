"""When a module may be read past its call, and when the memory of what it returned may be written over."""

import torch
from torch import Tensor, nn

from retentive.ops.lean.lean_linear import is_lean

_PLAIN_CLASSES = (nn.Linear, nn.Embedding)
"""An engine's views of plain modules have the class attribute ``is_view``; see `retentive.engine.lookup`."""


def is_plain(module: nn.Module) -> bool:
    """Whether a call of ``module`` does what its torch class does with the weight that it holds, and nothing more.

    Only then may a fast path use the weight itself. False for other classes (adapters, quantised and parametrised
    layers), for a patched ``forward``, for hooks of the module or of all modules, for a compiled call, and for a weight
    that is no ordinary tensor in memory (on the meta device, sharded, quantised, fake).
    """
    if getattr(type(module), "is_view", False):
        return True
    if type(module) not in _PLAIN_CLASSES:
        return False
    if "forward" in module.__dict__ or module._compiled_call_impl is not None or is_hooked(module):  # pyright: ignore[reportPrivateUsage]
        return False
    weight = module._parameters.get("weight")  # pyright: ignore[reportPrivateUsage]
    return type(weight) is nn.Parameter and weight.device.type != "meta"


def may_write_over(output: Tensor, producer: nn.Module, *seen_by: nn.Module) -> bool:
    """Whether nobody else can need the memory of ``output``, so that a sum may be written over it.

    Args:
        output: What a projection returned, or a module that ends with it.
        producer: That projection. Only of a plain one is it known that the memory is new.
        seen_by: Other modules that ``output`` came through; their hooks may have kept it.
    """
    if torch.is_grad_enabled():
        # Activation checkpointing may have kept a view of any other memory.
        if not is_lean(output):
            return False
    elif getattr(type(producer), "is_view", False):
        return True  # no part of a model that is viewed has hooks
    return is_plain(producer) and not any(map(is_hooked, seen_by))


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook, of the module or of all modules, sees what it is given or returns."""
    if getattr(type(module), "is_view", False):
        return False
    has_global_hook = getattr(nn.modules.module, "_has_any_global_hook", None)
    if has_global_hook is None or has_global_hook():  # this torch cannot tell, so there may be one
        return True
    forward = module._forward_hooks or module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
    backward = module._backward_hooks or module._backward_pre_hooks  # pyright: ignore[reportPrivateUsage]
    return bool(forward or backward)
