"""The command ``retentive index``: its actions, and the options of each."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, get_type_hints, runtime_checkable

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options.from_config import CommandParser, add_config, read_config


@runtime_checkable
class Shown(Protocol):
    """A result that a command prints, in lines for a person or as JSON for a program."""

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        ...

    def content(self) -> Any:
        """The same as values that JSON has."""
        ...


@runtime_checkable
class Judged(Protocol):
    """A result that may be bad news."""

    @property
    def passed(self) -> bool:
        """Whether it is good news."""
        ...


@dataclass(frozen=True)
class Action:
    """One thing that can be done with a store.

    Attributes:
        summary: What it does.
        home: Module and function that do it. It is imported when the action is asked for: one that needs little starts
            at once.
        words: Names of the options that stand without their name, first.
    """

    summary: str
    home: str
    words: tuple[str, ...] = ()

    @property
    def run(self) -> Callable[..., object]:
        """Does it; takes one value of each kind."""
        module, function = self.home.split(".")
        return cast("Callable[..., object]", getattr(import_module(f"retentive.cli.commands.index.{module}"), function))

    @property
    def kinds(self) -> tuple[type[Any], ...]:
        """Frozen dataclasses whose fields are its options."""
        hints = get_type_hints(self.run)
        return tuple(kind for name, kind in hints.items() if name != "return")


ACTIONS = {
    "build": Action(
        "Make a store of a folder of text, go on with one that was interrupted, or mend one.", "actions.build"
    ),
    "search": Action("Find the nearest chunks of a text.", "search.search", ("text",)),
    "add": Action("Add documents; what is there is not computed again.", "actions.add"),
    "remove": Action("Remove documents by name; no later answer shows their text.", "actions.remove", ("names",)),
    "evaluate": Action(
        "Measure answers by queries whose right documents are known: nDCG, MRR, recall.",
        "actions.evaluate",
        ("queries",),
    ),
    "upgrade": Action("Rebuild a store of an earlier version from its own text.", "actions.upgrade"),
    "sync": Action(
        "Bring a store in line with its source: add what is new, replace what changed, remove what is gone.",
        "actions.sync",
    ),
    "list": Action("List the documents of a store.", "actions.list_documents"),
    "gc": Action("Take earlier versions, and the text of removed documents, off the disk.", "actions.gc"),
    "reindex": Action(
        "Make vectors and indexes again from the text that is kept; no source is needed.", "actions.reindex"
    ),
    "serve": Action("Serve a store over HTTP, and to assistants by MCP.", "actions.serve"),
    "verify": Action("Read everything and name what is damaged.", "actions.verify"),
    "info": Action("Show counts, sizes, indexes and their recall.", "actions.info"),
    "plan": Action("Work out sizes and hours for a corpus that does not fit here.", "actions.plan"),
}


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """A subcommand for the action that is asked for, or for each: to make all takes a fifth of the time of a search."""
    subcommands = parser.add_subcommands(dest="action", description="retentive index ACTION --help lists its options")
    asked = ACTIONS.keys() & set(arguments[:1]) or ACTIONS.keys()
    for name, action in ACTIONS.items():
        if name in asked:
            subcommands.add_subcommand(name, _parser(action, parser), help=action.summary)


def _parser(action: Action, parent: ArgumentParser) -> ArgumentParser:
    assert isinstance(parent, CommandParser)
    parser = CommandParser(description=action.summary, parent=parent)
    parser.add_argument("--json", nargs="?", const=True, default=False, type=bool, help="Print JSON for programs.")
    for kind in action.kinds:
        conditions = frozenset({"where"} & {field.name for field in fields(kind)})
        add_config(parser, kind, leave_out=frozenset(action.words), texts=conditions)
    if "text" in action.words:
        parser.add_argument("text", help='What to search for; "-" reads it from standard input.')
    if "queries" in action.words:
        parser.add_argument("queries", type=Path, help="File of queries: a name, a tab and the text a line.")
    if "names" in action.words:
        parser.add_argument("names", nargs="+", help="Names of documents, as search shows them.")
    return parser


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Run the action; exit with 1 where `verify` finds damage."""
    action = ACTIONS[options.action]
    asked = options[options.action]
    as_json = asked.pop("json")
    words = {word: asked.pop(word) for word in action.words}
    reader = _parser(action, parser)
    result = action.run(*(read_config(reader, asked, kind, **words) for kind in action.kinds))
    if isinstance(result, Shown):
        content = json.dumps(result.content(), ensure_ascii=False, indent=1) if as_json else "\n".join(result.lines())
        print(content)
    if isinstance(result, Judged) and not result.passed:
        sys.exit(1)
