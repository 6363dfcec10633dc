"""A model whose parameters were looked up once.

A step of a small model takes a millisecond, and a tenth of that is Python: ``torch.nn.Module`` looks each parameter up
in a dictionary of its own, and each call checks hooks. A view of a module is an instance of the same class that holds
parameters and layers as plain attributes and is called directly. It computes what the module computes, with the weights
that the module had when the view was made; `ModelView.is_current` says whether it still has them.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from itertools import chain
from operator import attrgetter, is_
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from retentive.layers.batch_layout import RotaryConfig
from retentive.layers.parameters.derived import derived
from retentive.models.recomputing import is_recomputed
from retentive.ops.lean.plain import is_hooked, is_of_torch, is_patched_class
from retentive.private_apis import buffers_held_by, is_called_compiled, parameters_held_by, parts_held_by

Model = TypeVar("Model")


class ModelView:
    """A view of a model, and the weights that it was made of."""

    def __init__(self, model: nn.Module) -> None:
        """Look everything up.

        Args:
            model: In eval mode.
        """
        # Side by side, so that `is_current` is a few passes over lists: it is asked before each token.
        self._holders: list[Mapping[str, object]] = []
        self._forwards: dict[type[nn.Module], Callable[..., Any]] = {}
        self._attributes: list[tuple[nn.Module, dict[str, object]]] = []
        self._rotations: dict[RotaryConfig, RotaryConfig] = {}
        self._derived: list[tuple[dict[str, Any], str, Callable[[], object]]] = []
        self.model = self._view(model)
        self.derive()
        self._holders = [holder for holder in self._holders if holder]
        self._held = self._held_now()
        self._versioned = [held for held in self._held if isinstance(held, Tensor) and not held.is_inference()]
        self._versions = [_version(weight) for weight in self._versioned]
        # What is written to `.data` counts no version, but lies elsewhere. Fake tensors lie nowhere.
        self._placed = [held for held in self._held if type(held) in (Tensor, nn.Parameter)]
        self._places = list(map(_place, self._placed))

    def is_current(self) -> bool:
        """Whether the model has the same layers and weights as when the view was made, unchanged."""
        now = self._held_now()
        same = len(now) == len(self._held) and all(map(is_, now, self._held))
        if not same or list(map(_version, self._versioned)) != self._versions:
            return False
        return list(map(_place, self._placed)) == self._places

    def is_same_code(self) -> bool:
        """Whether classes and attributes, such as activations, are those with which the view was made.

        It takes longer than `is_current`, and is asked before a run of steps.
        """
        if any(kind.forward is not forward for kind, forward in self._forwards.items()):
            return False
        return all(_is_same(_attributes_of(module), then) for module, then in self._attributes)

    def derive(self) -> None:
        """Compute what follows from weights, again: a write to ``.data`` is one that torch does not count."""
        for attributes, name, make in self._derived:
            attributes[name] = make()

    def _held_now(self) -> list[object]:
        return list(chain.from_iterable(map(_values, self._holders)))

    def _view(self, module: nn.Module) -> Any:
        if type(module) is nn.ModuleList:
            return [self._view(part) for part in module]
        if not _can_be_viewed(module):
            return module  # called as it is
        kind = type(module)
        self._forwards[kind] = kind.forward
        self._attributes.append((module, _attributes_of(module)))
        view = cast("Any", object.__new__(_VIEWS.get(kind) or _view_class(kind, kind.forward)))
        attributes: dict[str, Any] = view.__dict__
        attributes.update({name: self._shared(value) for name, value in module.__dict__.items()})
        attributes.update(parameters_held_by(module))
        attributes.update(buffers_held_by(module))
        for name, part in parts_held_by(module).items():
            attributes[name] = None if part is None else self._view(part)
        self._holders += [parameters_held_by(module), parts_held_by(module)]
        for name, value in _derived_values(type(module)).items():
            self._derived.append((attributes, name, partial(value.make, module)))
        if kind is nn.Dropout:
            attributes["viewed"] = module
        if type(module) is nn.Linear and cast("Tensor | None", module.bias) is None:
            self._derived.append((attributes, "columns", module.weight.t))
        return view

    def _shared(self, value: object) -> object:
        """Equal rotations as one object, which a step finds by identity."""
        if isinstance(value, RotaryConfig):
            return self._rotations.setdefault(value, value)
        if isinstance(value, tuple):
            return tuple(map(self._shared, cast("tuple[object, ...]", value)))
        return value


def _attributes_of(module: nn.Module) -> dict[str, object]:
    """What a module holds beside parameters and parts, without torch's own."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}


def _is_same(now: dict[str, object], then: dict[str, object]) -> bool:
    return now.keys() == then.keys() and all(now[name] is value for name, value in then.items())


def is_observed(module: nn.Module) -> bool:
    """Whether a call of ``module``, or of a part of it, does more than its ``step``.

    That is a hook, a compiler's code, a patched ``forward``, a wrapper around what steps, or a subclass.
    """
    if not _steps_as_called(type(module)):
        return True
    return any(
        is_hooked(part) or is_called_compiled(part) or _is_patched(part) or _holds_what_cannot_step(part)
        for part in module.modules()
    )


def _is_patched(part: nn.Module) -> bool:
    """Whether something else stands in place of a ``forward`` that a step leaves out, such as a hook of accelerate."""
    if is_patched_class(type(part)):
        return True
    return "forward" in vars(part) and hasattr(type(part), "step") and not is_recomputed(part)


def _holds_what_cannot_step(part: nn.Module) -> bool:
    """Whether a step of ``part`` would call a ``step`` of something that does more when it is called."""
    held, names = parts_held_by(part), cast("tuple[str, ...]", getattr(type(part), "stepped", ()))
    inside = chain.from_iterable(_each(held.get(name)) for name in names)
    return not all(_steps_as_called(type(one)) for one in inside)


def _each(held: nn.Module | None) -> Iterable[nn.Module]:
    if type(held) is nn.ModuleList:
        return held
    return () if held is None else (held,)


@cache
def _steps_as_called(kind: type[nn.Module]) -> bool:
    """Whether a class has a ``step``, and no class below that one says anew what a call does."""
    return not any(
        _defined_at(kind, of_many) < _defined_at(kind, of_one)
        for of_one, names in _SAME.items()
        for of_many in names
        if of_one == "step" or hasattr(kind, of_one)
    )


_SAME = {
    "step": (
        *("forward", "answer", "hidden_states", "read_out"),
        *("run", "columns"),  # of a recurrent memory
        "query",  # of a cross-attention; mixers read single tokens by `step` in calls, too
    ),
    "embed_token": ("embed",),
}
"""Methods that read one token of each row, and those that say the same of many."""


def _defined_at(kind: type[nn.Module], name: str) -> int:
    """How many classes lie between a class and the one that defines a method; more than there are where none does."""
    return next((place for place, parent in enumerate(kind.__mro__) if name in vars(parent)), len(kind.__mro__))


def weight_versions(module: nn.Module) -> tuple[object, ...]:
    """What differs as soon as a weight is replaced or written to; tensors of inference mode keep no count."""
    held = chain(module.parameters(), module.buffers())
    return tuple((tensor.data_ptr(), None if tensor.is_inference() else _version(tensor)) for tensor in held)


def _can_be_viewed(module: nn.Module) -> bool:
    """Whether the class keeps nothing between calls, and the instance overrides nothing of its class."""
    kind = type(module)
    is_known = is_of_torch(kind) or kind.__module__.startswith("retentive.")
    return is_known and "forward" not in module.__dict__ and "step" not in module.__dict__


class _LinearView(nn.Linear):
    """Holds the columns of its weight, which torch looks for in each call of a linear layer, through four functions."""

    is_view = True
    columns: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """``x weight^T + bias``."""
        if self.columns is None or x.dim() != 2:
            return nn.functional.linear(x, self.weight, self.bias)
        return torch.mm(x, self.columns)


class _DropoutView(nn.Dropout):
    """Asks the module that it is a view of whether it drops anything: in eval mode, only where the user says so."""

    is_view = True
    viewed: nn.Dropout

    def __call__(self, x: Tensor) -> Tensor:
        """``x``, or what is left of it."""
        return nn.functional.dropout(x, self.viewed.p, True) if self.viewed.training else x


_VIEWS: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: _LinearView, nn.Dropout: _DropoutView}


@cache
def _view_class(kind: type[nn.Module], forward: Callable[..., Any]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"__call__": forward, "is_view": True})


@cache
def _derived_values(kind: type[nn.Module]) -> dict[str, "derived[Any]"]:
    return {
        name: value
        for parent in reversed(kind.__mro__)
        for name, value in vars(parent).items()
        if isinstance(value, derived)
    }


_values: Callable[[Mapping[str, object]], Iterable[object]] = dict.values  # pyright: ignore[reportAssignmentType]
_version: Callable[[Tensor], int] = attrgetter("_version")
_place: Callable[[Any], int] = Tensor.data_ptr
"""How often a weight was written to; tensors of inference mode keep no count."""
