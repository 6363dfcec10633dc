"""Options of a command from the fields of a frozen dataclass: names, types, defaults and help are written once."""

from dataclasses import fields
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

Config = TypeVar("Config")


def add_config(parser: ArgumentParser, kind: type[Any], *, leave_out: frozenset[str] = frozenset()) -> None:
    """Add an option for every field of ``kind``; nested configs become dotted options."""
    parser.add_class_arguments(kind, skip=set(leave_out), as_group=False)
    claims = {field.name for field in fields(kind) if field.type in (bool, "bool")}
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage] - it has no other way to find an option
        if action.dest in claims:
            action.nargs, action.const = "?", True  # a claim can stand alone: --echo is --echo true


def read_config(parser: ArgumentParser, options: Namespace, kind: type[Config], **given: Any) -> Config:
    """Make the config from parsed options; the config itself refuses what cannot be."""
    made = parser.instantiate(options)
    values = {field.name: made[field.name] for field in fields(kind) if field.name in made}  # type: ignore[arg-type]
    return kind(**values, **given)
