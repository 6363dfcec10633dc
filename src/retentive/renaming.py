"""Names that options and arguments had before: they go on working, and a warning tells today's name.

``@renamed(base="backbone")`` above a config or a function is all that a new name takes: calls, `dataclasses.replace`,
attributes, files and the command line take both.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

AnyCallable = TypeVar("AnyCallable", bound=Callable[..., Any])


def renamed(**names: str) -> Callable[[AnyCallable], AnyCallable]:
    """Let a function, or a frozen dataclass, take arguments by the names that they had before.

    An old name is taken for the new one with a ``DeprecationWarning``; a dataclass has its old attributes as well, and
    tells them to `old_names`. Both names in one call raise ``TypeError``.

    Args:
        names: Old name -> today's name.
    """

    def rename(made: AnyCallable) -> AnyCallable:
        kind: Any = made
        if not isinstance(made, type):
            return _taking_old_names(kind, names, kind.__name__, frozenset())
        options = frozenset(field.name for field in fields(kind) if field.init)
        kind.__init__ = _taking_old_names(kind.__init__, names, kind.__name__, options)
        for old, new in names.items():
            setattr(kind, old, _old_attribute(kind.__name__, old, new))
        kind.__old_names__ = dict(names)
        return kind

    return rename


def old_names(kind: type) -> Mapping[str, str]:
    """The names that options of a config had before, each with today's name."""
    return getattr(kind, "__old_names__", {})


def by_new_names(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a config by today's names, without a warning: what a file says was right when it was written.

    Raises:
        ValueError: If an option has both names.
    """
    names = old_names(kind)
    for old in names.keys() & values.keys():
        if names[old] in values:
            raise ValueError(f"{kind.__name__} must not have {_both(old, names[old])}.")
    return {names.get(name, name): value for name, value in values.items()}


def _taking_old_names(call: Any, names: Mapping[str, str], label: str, options: frozenset[str]) -> Any:
    @wraps(call)
    def taking(*args: Any, **given: Any) -> Any:
        for old in names.keys() & given.keys():
            new = names[old]
            is_replaced = bool(options) and _is_from_replace(given, old, new, options)
            if new in given and not is_replaced:
                raise TypeError(f"{label} must not be given {_both(old, new)}.")
            warnings.warn(
                f"{old} of {label} is called {new} now: give {new}=...", DeprecationWarning, stacklevel=2 + is_replaced
            )
            given[new] = given.pop(old)
        return call(*args, **given)

    return taking


def _is_from_replace(given: Mapping[str, Any], old: str, new: str, options: frozenset[str]) -> bool:
    """Whether `dataclasses.replace` calls: it hands every option on, after those that it was given."""
    order = list(given)
    return options <= given.keys() and order.index(old) < order.index(new)


def _both(old: str, new: str) -> str:
    return f"both {new} and {old}, its former name; leave {old} out"


def _old_attribute(label: str, old: str, new: str) -> property:
    def read(config: object) -> Any:
        warnings.warn(f"{old} of {label} is called {new} now: read .{new}", DeprecationWarning, stacklevel=2)
        return getattr(config, new)

    return property(read, doc=f"The name of ``{new}`` before.")
