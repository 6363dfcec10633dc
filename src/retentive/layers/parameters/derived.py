"""Values that follow from a layer's config and parameters."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class derived(Generic[Value]):  # noqa: N801 - a decorator, like `property`
    """A property that is computed at each use, so that it is never stale; an engine computes it once for its steps.

    An instance may hold a value of the same name in its ``__dict__``, which then takes the place of the computation.
    """

    def __init__(self, make: Callable[[Any], Value]) -> None:
        """Take the function that computes the value from the layer."""
        self.make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, layer: None, owner: type) -> "derived[Value]": ...

    @overload
    def __get__(self, layer: object, owner: type) -> Value: ...

    def __get__(self, layer: object | None, owner: type) -> "derived[Value] | Value":
        """Compute the value."""
        return self if layer is None else self.make(layer)
