"""Configs hold what their annotations say: a frozen dataclass refuses values of another type when it is made."""

import math
import types
import typing
from dataclasses import fields
from functools import cache

NAMES = {int: "a whole number", float: "a finite number", bool: "True or False"}


def check_types(config: object) -> None:
    """Refuse numbers and flags of another type than a config's annotations name; other fields are the config's affair.

    Args:
        config: A dataclass, called from its ``__post_init__`` before anything is computed from it.

    Raises:
        ValueError: If a value is of another type, such as 32.0 or True for a whole number, or a number is not finite.
    """
    for name, kind, is_optional, is_tuple in _numbers(type(config)):
        value = getattr(config, name)
        if value is None and is_optional:
            continue
        parts = value if is_tuple and isinstance(value, tuple) else (value,)
        for part in typing.cast("tuple[object, ...]", parts):
            if not _is(part, kind) or (is_tuple and not isinstance(value, tuple)):
                rule = f"a tuple, each part {NAMES[kind]}" if is_tuple else NAMES[kind]
                raise ValueError(
                    f"{name} must be {rule}{' or None' if is_optional else ''}, but is {value!r} "
                    f"({type(value).__name__})."
                )


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(typing.cast("float", value))
    return type(value) is kind


@cache
def _numbers(config: type) -> tuple[tuple[str, type, bool, bool], ...]:
    """Name, type, whether None is allowed and whether it is a tuple, of every number and flag."""
    hints = typing.get_type_hints(config)
    found: list[tuple[str, type, bool, bool]] = []
    for field in fields(config):
        hint = hints[field.name]
        options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        is_optional = type(None) in options
        plain = [option for option in options if option is not type(None)]
        if len(plain) != 1:
            continue
        is_tuple = typing.get_origin(plain[0]) is tuple
        kind = typing.get_args(plain[0])[0] if is_tuple else plain[0]
        if kind in NAMES:
            found.append((field.name, kind, is_optional, is_tuple))
    return tuple(found)
