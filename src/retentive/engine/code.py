"""What a model computes beside its weights: programs that were made of it are asked whether it is still the same."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import cast

from torch import nn

from retentive.engine.lookup import weight_versions
from retentive.errors import MismatchError
from retentive.models.fingerprint import weights_fingerprint
from retentive.models.protocol import LanguageModel, as_module

_OF_TORCH = frozenset(vars(nn.Module()))
_DEPTH = 4
"""How far values inside values are looked at, such as an adapter's settings."""


class _This:
    """An object that is equal to itself alone, kept so that no other gets its place in memory."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def code_of(model: nn.Module) -> tuple[object, ...]:
    """What differs as soon as a part is replaced by one of another class, patched, or told to compute something else.

    Weights are left out, see `weight_versions`. An adapter that is disabled, another activation and a patched
    ``forward`` are found in the attributes of parts.
    """
    return tuple((name, type(part), type(part).forward, _attributes(part)) for name, part in model.named_modules())


def parts_of(model: nn.Module) -> list[str]:
    """The same in words that mean something to another process: parts with their classes, and which are patched."""
    return [
        f"{name}: {type(part).__module__}.{type(part).__qualname__}{', patched' if 'forward' in vars(part) else ''}"
        for name, part in model.named_modules()
    ]


def _attributes(part: nn.Module) -> object:
    return _value({name: value for name, value in vars(part).items() if name not in _OF_TORCH}, _DEPTH)


def _value(value: object, depth: int) -> object:
    """A value that can be compared later, whatever happens to what it was made of."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if depth:
        if isinstance(value, Mapping):
            pairs = cast("Mapping[object, object]", value).items()
            return tuple((_value(key, 0), _value(held, depth - 1)) for key, held in pairs)
        if isinstance(value, Sequence):
            return tuple(_value(held, depth - 1) for held in cast("Sequence[object]", value))
        if isinstance(value, Set):
            return frozenset(_value(held, 0) for held in cast("Set[object]", value))
    return _This(value)


class ExportedModel:
    """The model whose steps a folder holds, as it was when the folder was opened."""

    def __init__(self, model: LanguageModel, folder: Path, cure: str) -> None:
        """Remember the model.

        Args:
            model: The one of the folder, as its manifest says.
            folder: For messages.
            cure: For messages.
        """
        self._module, self._folder, self._cure = as_module(model), folder, cure
        self._versions, self._weights = weight_versions(self._module), weights_fingerprint(self._module)
        self._code = code_of(self._module)

    def check(self) -> None:
        """Look whether the model still has the weights and parts that were exported.

        Raises:
            MismatchError: If it has others, which the folder's steps would not use.
        """
        # Versions tell of any write that torch counts; the fingerprint tells of others, such as those to `.data`.
        weights = (weight_versions(self._module), weights_fingerprint(self._module))
        same_parts = code_of(self._module) == self._code
        if not same_parts or weights != (self._versions, self._weights):
            what = "weights" if same_parts else "parts"
            raise MismatchError(
                f"model must have the {what} that were exported to {self._folder}, but they have changed since it was "
                f"opened: {self._cure}."
            )
