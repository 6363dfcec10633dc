"""When a fast path may use a module's weight without calling the module."""

from torch import nn

from retentive.private_apis import has_hooks, is_called_compiled, parameters_held_by

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
    if "forward" in module.__dict__ or is_called_compiled(module) or is_hooked(module):
        return False
    weight = parameters_held_by(module).get("weight")
    return type(weight) is nn.Parameter and weight.device.type != "meta"


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook, of the module or of all modules, sees what it is given or returns."""
    return not getattr(type(module), "is_view", False) and has_hooks(module)
