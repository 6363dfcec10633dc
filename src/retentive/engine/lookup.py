"""A model whose parameters were looked up once.

A step of a small model takes a millisecond, and a tenth of that is Python: ``torch.nn.Module`` looks each parameter up
in a dictionary of its own, and each call checks hooks. A view of a module is an instance of the same class that holds
parameters and layers as plain attributes and is called directly. It computes what the module computes, with the weights
that the module had when the view was made; `ModelView.is_current` says whether it still has them.
"""

from functools import cache
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from retentive.layers.derived import derived
from retentive.ops.lean.plain import is_hooked

Model = TypeVar("Model")

_TORCH_CLASSES = (nn.Linear, nn.Embedding, nn.Dropout, nn.Identity)


class ModelView:
    """A view of a model, and the weights that it was made of."""

    def __init__(self, model: nn.Module) -> None:
        """Look everything up.

        Args:
            model: In eval mode.
        """
        self._weights: list[tuple[dict[str, Tensor | None], str, Tensor, int | None]] = []
        self._parts: list[tuple[dict[str, nn.Module | None], str, nn.Module]] = []
        self.model = self._view(model)

    def is_current(self) -> bool:
        """Whether the model has the same layers and weights as when the view was made, unchanged."""
        for held, name, part in self._parts:
            if held.get(name) is not part:
                return False
        for held, name, weight, version in self._weights:
            if held.get(name) is not weight or (version is not None and weight._version != version):  # pyright: ignore[reportPrivateUsage]
                return False
        return True

    def _view(self, module: nn.Module) -> Any:
        if type(module) is nn.ModuleList:
            return [self._view(part) for part in module]
        if not _can_be_viewed(module):
            return module  # called as it is
        view = cast("Any", object.__new__(_view_class(type(module))))
        attributes: dict[str, Any] = view.__dict__
        attributes.update(module.__dict__)
        for name, weight in module._parameters.items():  # pyright: ignore[reportPrivateUsage]
            attributes[name] = weight
            if weight is not None:
                self._weights.append((module._parameters, name, weight, _version(weight)))  # pyright: ignore
        for name, buffer in module._buffers.items():  # pyright: ignore[reportPrivateUsage]
            attributes[name] = buffer
        for name, part in module._modules.items():  # pyright: ignore[reportPrivateUsage]
            attributes[name] = None if part is None else self._view(part)
            if part is not None:
                self._parts.append((module._modules, name, part))  # pyright: ignore[reportPrivateUsage]
        for name, value in _derived_values(type(module)).items():
            attributes[name] = value.make(module)
        return view


def is_observed(module: nn.Module) -> bool:
    """Whether calling ``module``, or a part of it, does more than its ``forward``: a hook, or a compiler's code."""
    return any(is_hooked(part) or part._compiled_call_impl is not None for part in module.modules())  # pyright: ignore[reportPrivateUsage]


def _can_be_viewed(module: nn.Module) -> bool:
    """Whether the class keeps nothing between calls, and the instance overrides nothing of its class."""
    kind = type(module)
    is_known = kind in _TORCH_CLASSES or kind.__module__.startswith("retentive.")
    return is_known and "forward" not in module.__dict__ and "step" not in module.__dict__


@cache
def _view_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"__call__": kind.forward, "is_view": True})


@cache
def _derived_values(kind: type[nn.Module]) -> dict[str, "derived[Any]"]:
    return {
        name: value
        for parent in reversed(kind.__mro__)
        for name, value in vars(parent).items()
        if isinstance(value, derived)
    }


def _version(weight: Tensor) -> int | None:
    """How often a weight was written to; None for tensors of inference mode, which keep no count."""
    return None if weight.is_inference() else weight._version  # pyright: ignore[reportPrivateUsage]
