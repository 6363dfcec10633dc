"""``retentive prepare``: a folder of text becomes tokens on disk."""

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import add_config, read_config
from retentive.data.prepare import PrepareConfig, prepare


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `PrepareConfig`."""
    add_config(parser, PrepareConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Make the token store and say what is in it."""
    report = prepare(read_config(parser, options, PrepareConfig))
    print("\n".join(report.lines()))
    print(f"next: retentive train --store {report.output} --run runs/first --steps 1000")
