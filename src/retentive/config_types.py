"""Values are of the types that annotations name: a config refuses others when it is made, a call before it begins."""

import math
import os
import types
import typing
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral
from pathlib import Path

LARGEST = (1 << 63) - 1
"""Larger whole numbers fit into no tensor and no count of the machine."""

NAMES: dict[type, str] = {int: "a whole number", float: "a finite number", bool: "True or False", Path: "a Path"}


def check_count(name: str, value: object, least: int = 1, unit: str = "", otherwise: str = "") -> None:
    """Refuse a number of things that is no whole number, or too small.

    Args:
        name: The argument, for the message.
        value: What was given. True and False are no numbers.
        least: The smallest number that is allowed.
        unit: What is counted, in the singular, for the message.
        otherwise: What else is allowed, for the message, as in ``None for all``.

    Raises:
        ValueError: If it cannot be.
    """
    instead = f", or {otherwise}" if otherwise else ""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be {NAMES[int]}{instead}, but is {value!r} ({type(value).__name__}).")
    if value < least:
        noun = f" {unit}{'' if least == 1 else 's'}" if unit else ""
        raise ValueError(f"{name} must be at least {least}{noun}{instead}, but is {value}.")
    check_fits(name, int(value))


def check_fits(name: str, value: int) -> None:
    """Refuse a whole number that no tensor and no count of the machine can hold.

    Args:
        name: The argument, for the message.
        value: What was given.

    Raises:
        ValueError: If it is beyond 64 bits.
    """
    if abs(value) > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:,} (64 bits), but is one of {value.bit_length()} bits.")


PROCESSES_PER_CORE = 4
"""More of them only wait for one another, and each takes memory of its own."""


def check_processes(name: str, value: int, cores: int | None = None) -> None:
    """Refuse a number of processes that cores could not serve, before thousands of them are started.

    Args:
        name: The argument, for the message.
        value: How many are to be started.
        cores: That they share; None for those of this machine which this process may use.

    Raises:
        ValueError: If there are more than `PROCESSES_PER_CORE` for each core.
    """
    where = "" if cores is None else " of the cluster"
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = PROCESSES_PER_CORE * cores
    if value > most:
        raise ValueError(
            f"{name} must be at most {most} processes ({PROCESSES_PER_CORE} for each of the {cores} cores{where}), but "
            f"is {value:,}; more would only take memory."
        )


def check_counts(config: object, *names: str, unit: str = "") -> None:
    """Refuse fields of a config that are no whole numbers of at least 1; see `check_count`."""
    for name in names:
        check_count(name, getattr(config, name), unit=unit)


def check_kind(name: str, value: object, *kinds: type, cure: str = "") -> None:
    """Refuse an argument of another class, such as a dict for a config.

    Args:
        name: The argument, for the message.
        value: What was given.
        kinds: The classes that are allowed.
        cure: What to do, for the message.

    Raises:
        TypeError: If it is of none of them.
    """
    if isinstance(value, kinds):
        return
    nouns = " or ".join("None" if kind is type(None) else _with_article(kind) for kind in kinds)
    cure = f": {cure}" if cure else _cure(value, kinds[0])
    raise TypeError(f"{name} must be {nouns}, but is {_with_article(type(value))}{cure}.")


def check_types(config: object, prefix: str = "") -> None:
    """Refuse numbers, flags, paths and nested configs of another type than a config's annotations name.

    So are values that are none of the choices of a ``Literal``. Other fields are the config's own affair.

    Args:
        config: A dataclass, called from its ``__post_init__`` before anything is computed from it.
        prefix: What stands before the name of a field in messages, such as ``data.``.

    Raises:
        ValueError: If a value is of another type, such as 32.0 or True for a whole number, a string for a path or a
            dict for a config, or if a number is not finite.
    """
    for name, choices, is_optional in _fields_with_choices(type(config)):
        if (value := getattr(config, name)) is not None or not is_optional:
            check_choice(prefix + name, value, choices, is_optional=is_optional)
    for name, kind, is_optional, is_tuple in _checked_fields(type(config)):
        value = getattr(config, name)
        if value is None and is_optional:
            continue
        parts = value if is_tuple and isinstance(value, tuple) else (value,)
        for part in typing.cast("tuple[object, ...]", parts):
            if not _is(part, kind) or (is_tuple and not isinstance(value, tuple)):
                noun = NAMES[kind] if kind in NAMES else _with_article(kind)
                rule = f"a tuple, each part {noun}" if is_tuple else noun
                raise ValueError(
                    f"{prefix}{name} must be {rule}{' or None' if is_optional else ''}, but is {value!r} "
                    f"({type(value).__name__}){_cure(value, kind)}."
                )
            if isinstance(part, int):
                check_fits(prefix + name, part)


def check_choice(name: str, value: object, choices: tuple[object, ...], *, is_optional: bool = False) -> None:
    """Refuse a value that is none of some choices.

    Args:
        name: The argument, for the message.
        value: What was given.
        choices: What is allowed.
        is_optional: Whether None is allowed too, for the message.

    Raises:
        ValueError: If it is none of them.
    """
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return
    *first, last = (*map(repr, choices), *(("None",) if is_optional else ()))
    raise ValueError(f"{name} must be {', '.join(first)} or {last}, but is {value!r}.")


def _with_article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOUaeiou' else 'a'} {kind.__name__}"


def _cure(value: object, kind: type) -> str:
    """What was meant, where that is plain."""
    if kind is Path and isinstance(value, str):
        return f": give Path({value!r})"
    return f": give {kind.__name__}(**values)" if kind.__name__.endswith("Config") and isinstance(value, dict) else ""


def _is(value: object, kind: type) -> bool:
    if kind is float:
        if isinstance(value, int):
            return not isinstance(value, bool)
        return isinstance(value, float) and math.isfinite(value)
    return type(value) is kind if kind in (int, bool) else isinstance(value, kind)


@cache
def _fields_with_choices(config: type) -> tuple[tuple[str, tuple[object, ...], bool], ...]:
    """Name, choices and whether None is allowed, of every field whose annotation is a ``Literal``."""
    hints = typing.get_type_hints(config)
    found: list[tuple[str, tuple[object, ...], bool]] = []
    for field in fields(config):
        hint, is_optional = _without_none(hints[field.name])
        if typing.get_origin(hint) is typing.Literal:
            found.append((field.name, typing.get_args(hint), is_optional))
    return tuple(found)


def _without_none(hint: typing.Any) -> tuple[typing.Any, bool]:
    """The one type of a hint beside None, or the hint itself where there are several; and whether None is allowed."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    plain = [option for option in typing.get_args(hint) if option is not type(None)]
    return plain[0] if len(plain) == 1 else hint, len(plain) < len(typing.get_args(hint))


@cache
def _checked_fields(config: type) -> tuple[tuple[str, type, bool, bool], ...]:
    """Name, type, whether None is allowed and whether it is a tuple, of every field that is checked."""
    hints = typing.get_type_hints(config)
    found: list[tuple[str, type, bool, bool]] = []
    for field in fields(config):
        hint, is_optional = _without_none(hints[field.name])
        is_tuple = typing.get_origin(hint) is tuple
        kind = typing.get_args(hint)[0] if is_tuple else hint
        if isinstance(kind, type) and (kind in NAMES or is_dataclass(kind)):
            found.append((field.name, kind, is_optional, is_tuple))
    return tuple(found)
