"""Options of a command from the fields of a frozen dataclass: names, types, defaults and help are written once."""

import difflib
import re
import sys
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, Namespace

Config = TypeVar("Config")

_UNKNOWN = re.compile(r"unrecognized arguments: (?P<words>.*)|Option '(?P<key>[^']*)' is not accepted")


class CommandParser(ArgumentParser):
    """Takes options by their full names, and says what is wrong with them in two lines, not below a page of usage.

    Attributes:
        first_word: The option that may stand first without its name; None where a command has none.
    """

    def __init__(self, **given: Any) -> None:
        # An option is its whole name: what is short today could mean another option tomorrow.
        given.setdefault("allow_abbrev", False)
        super().__init__(default_env=False, **given)
        self.first_word: str | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with the message, the option that may have been meant, and where all are explained."""
        if not self.exit_on_error:
            super().error(message, ex)
        name = self.prog.replace(" [options]", "")  # which the library puts before the name of a subcommand
        print(f"{name}: {message.rstrip('.')}{self._cure(message)}", file=sys.stderr)
        print(f"{name} --help explains every option.", file=sys.stderr)
        self.exit(2)

    def _cure(self, message: str) -> str:
        """How to go on after an option that does not exist; empty for other mistakes."""
        found = _UNKNOWN.search(message)
        if found is None:
            return "."
        words = (found["words"] or f"--{found['key']}").split()
        asked = next((word.split("=")[0] for word in words if word.startswith("--")), None)
        if asked is None and self.first_word is not None:
            return f"; the {self.first_word} stands first: {self.prog} {self.first_word.upper()} --option value ..."
        names = [name for name in self._option_string_actions if name.startswith("--")]
        near = difflib.get_close_matches(asked or "", names, 1)
        longer = [name for name in names if asked and name.startswith(asked)]
        if asked and (near or len(longer) == 1):
            return f"; did you mean {(longer if len(longer) == 1 else near)[0]}?"
        return "."


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
