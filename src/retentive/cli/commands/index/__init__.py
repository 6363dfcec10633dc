"""``retentive index``: a folder of text as a store that can be searched, added to, checked and planned."""

from retentive.cli.commands.index.command import add_options, run

__all__ = ["add_options", "run"]
