"""The part of `retentive.private_apis` that commands need to start: importing torch takes longer than many of them."""

from typing import Any


def options_of(parser: Any) -> list[Any]:
    """Return the options of a parser, to be changed (jsonargparse 4.49, argparse of Python 3.11)."""
    return parser._actions
