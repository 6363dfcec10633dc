"""When a fast path may use a module's weight without calling the module."""

from torch import nn

_PLAIN_CLASSES = (nn.Linear, nn.Embedding)
"""An engine's views of plain modules have the class attribute ``is_view``; see `retentive.engine.lookup`."""


def is_plain(module: nn.Module) -> bool:
    """Whether a call of ``module`` does what its torch class does with the weight that it holds, and nothing more.

    Only then may a fast path use the weight itself. False for other classes (adapters, quantised and parametrised
    layers), for a patched ``forward``, for hooks of the module or of all modules, for a compiled call, and for a weight
    that is no ordinary tensor in memory (on the meta device, sharded, quantised, fake).
    """
    if getattr(type(module), "is_view", False):
        return isinstance(module, _PLAIN_CLASSES)
    if type(module) not in _PLAIN_CLASSES:
        return False
    if "forward" in module.__dict__ or module._compiled_call_impl is not None or is_hooked(module):  # pyright: ignore[reportPrivateUsage]
        return False
    weight = module._parameters.get("weight")  # pyright: ignore[reportPrivateUsage]
    return type(weight) is nn.Parameter and weight.device.type != "meta"


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
