"""When a fast path may use a module's weight without calling the module."""

import torch
from torch import nn

from retentive.errors import MismatchError
from retentive.private_apis import (
    has_hooks,
    has_own_hooks,
    is_called_compiled,
    is_fake,
    is_offloaded,
    parameters_held_by,
)

_PLAIN_CLASSES = (nn.Linear, nn.Embedding)
"""An engine's views of plain modules have the class attribute ``is_view``; see `retentive.engine.lookup`."""

_FORWARDS = {kind: kind.forward for kind in (*_PLAIN_CLASSES, nn.Dropout, nn.Identity)}
"""As torch has them: a tool that observes or changes models may put another in place for a whole class."""


def is_plain(module: nn.Module) -> bool:
    """Whether a call of ``module`` does what its torch class does with the weight that it holds, and nothing more.

    Only then may a fast path use the weight itself. False for other classes (adapters, quantised and parametrised
    layers), for a patched ``forward`` of the module or of its class, for hooks of the module or of all modules, for a
    compiled call, and for a weight that is no ordinary tensor in memory (on the meta device, sharded, quantised, fake
    where nothing is exported).
    """
    if getattr(type(module), "is_view", False):
        return isinstance(module, _PLAIN_CLASSES)
    if type(module) not in _PLAIN_CLASSES or is_patched_class(type(module)):
        return False
    if "forward" in module.__dict__ or is_called_compiled(module) or is_hooked(module):
        return False
    weight = parameters_held_by(module).get("weight")
    if torch.compiler.is_exporting() and is_fake(weight):
        return True  # it stands for the weight in the graph
    return type(weight) is nn.Parameter and weight.device.type != "meta"


def is_of_torch(kind: type[nn.Module]) -> bool:
    """Whether a class is one of torch's that keep nothing between calls, with the ``forward`` that torch gave it."""
    return kind in _FORWARDS and not is_patched_class(kind)


def is_patched_class(kind: type[nn.Module]) -> bool:
    """Whether a class of torch has another ``forward`` than torch gave it."""
    return kind in _FORWARDS and kind.forward is not _FORWARDS[kind]


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook, of the module or of all modules, sees what it is given or returns."""
    return not getattr(type(module), "is_view", False) and has_hooks(module)


def check_weights_say_all(name: str, module: nn.Module, like: nn.Module) -> None:
    """Refuse a module that computes something else than its weights say, where they alone are taken over.

    Args:
        name: The argument, for the message.
        module: Whose weights are taken.
        like: A new one of the same config, which gets them.

    Raises:
        MismatchError: If a part of it is of another class (an adapter, quantised, parametrised), has a hook, or a
            patched ``forward``.
    """
    parts = dict(like.named_modules())
    for path, part in module.named_modules():
        expected = parts.get(path)
        if expected is None or type(part) is not type(expected):
            raise MismatchError(
                f"{name} must be of the parts that its config describes, for its weights alone are taken over, but "
                f"{path} is a {type(part).__name__}: merge adapters and parametrisations into the weights, or take the "
                "model that it was made of."
            )
        check_nothing_added(name, path, part)


def check_nothing_added(name: str, path: str, part: nn.Module) -> None:
    """Refuse a part whose hooks or patched ``forward`` would be lost, where another takes its place.

    Args:
        name: The argument that has the part, for the message.
        path: Of the part in it.
        part: The part.

    Raises:
        MismatchError: If it has any.
    """
    added = "a hook" if has_own_hooks(part) else "a patched forward" if "forward" in part.__dict__ else ""
    if added:
        raise MismatchError(
            f"{name} must be a model without additions, for its weights alone are taken over, but {path} has {added}, "
            "which would be lost: remove it, and add it again to what is made."
        )


_CALLS = ("forward", "answer", "read_out")
"""What a call does: of any module, and of a language model besides."""


def check_adds_nothing_to_calls(name: str, part: nn.Module, kind: type[nn.Module], cure: str) -> None:
    """Refuse a part that does more when it is called, where methods of it are called and never the part.

    Args:
        name: The path of the part, for the message.
        part: The part.
        kind: The class whose methods those are.
        cure: Where else to put what it does; for the message.

    Raises:
        ValueError: If it has a hook or a patched ``forward``, is wrapped, or is of a class that says anew what a call
            does. A hook that loads offloaded weights is none: each part inside has its own.
    """
    if is_offloaded(part):
        return
    added = ""
    if has_own_hooks(part):
        added = "has a hook"
    elif "forward" in part.__dict__:
        added = "has a patched forward"
    elif not isinstance(part, kind) or any(
        getattr(type(part), call, None) is not getattr(kind, call, None) for call in _CALLS
    ):
        added = f"is a {type(part).__name__}"
    if added:
        raise ValueError(
            f"{name} must do nothing more in calls than a {kind.__name__}, for methods of it are called here and never "
            f"the whole, but it {added}: {cure}."
        )
