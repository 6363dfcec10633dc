"""Options whose values count to the letter: what is typed is never read as YAML."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

import jsonargparse

from retentive.private_apis import options_of


class Texts:
    """The type of an option that is a text or, if it is repeated, several; a file may give a list."""

    def __call__(self, value: object) -> tuple[str, ...]:
        """The texts.

        Raises:
            ValueError: If they are something else, such as a number that a file does not quote, or an empty list.
        """
        if isinstance(value, str):
            return (value,)
        if isinstance(value, tuple):
            return cast("tuple[str, ...]", value)  # the default, or typed
        several = cast("list[object]", value) if isinstance(value, list) else []
        texts = tuple(text for text in several if isinstance(text, str))
        if not texts or len(texts) < len(several):
            raise ValueError(f"must be a text in quotes or a list of at least one, but is {value!r}")
        return texts

    def __repr__(self) -> str:
        """What the help says."""
        return "text; repeat the option for several"


class Text:
    """The type of an option that is a text, or left out."""

    def __call__(self, value: object) -> str | None:
        """The text.

        Raises:
            ValueError: If it is something else, such as a number that a file does not quote.
        """
        if value is None or isinstance(value, str):
            return value
        raise ValueError(f"must be a text, but is {value!r}: quote it")

    def __repr__(self) -> str:
        """What the help says."""
        return "text"


class Typed(Action):
    """Keep what is typed, in place of what a file says; of a type that gives tuples, all that is typed."""

    def __init__(self, option_strings: Sequence[str], dest: str, **given: Any) -> None:
        super().__init__(option_strings, dest, **given)
        self._typed: tuple[str, ...] = ()

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        """Take one more text."""
        assert callable(self.type)
        if values == []:
            values = self.type("--")  # argparse of Python 3.11 drops it from "--option=--"
        if isinstance(values, tuple):
            values = self._typed = (*self._typed, *cast("tuple[str, ...]", values))
        setattr(namespace, self.dest, values)


def add_texts(parser: jsonargparse.ArgumentParser, kind: type[Any], names: frozenset[str]) -> None:
    """Add options for fields of a frozen dataclass whose values count to the letter."""
    described = jsonargparse.ArgumentParser(add_help=False)
    others: set[str | int] = {field.name for field in fields(kind) if field.name not in names}
    described.add_class_arguments(kind, skip=others, as_group=False)
    for option in options_of(described):
        if option.dest in names:
            several = isinstance(option.default, tuple)
            kept: Any = {"type": Texts() if several else Text(), "default": option.default, "help": option.help}
            parser.add_argument(f"--{option.dest}", action=Typed, **kept)
