"""The command ``retentive index``: its actions, and the options of each."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.commands.index import actions
from retentive.cli.commands.index import options as configs
from retentive.cli.options.from_config import CommandParser, add_config, read_config
from retentive.data.sources.text_source import SourceConfig
from retentive.retrieval.maintenance import Shown, Verdict
from retentive.retrieval.plan import PlanConfig


@dataclass(frozen=True)
class Action:
    """One thing that can be done with a store.

    Attributes:
        summary: What it does.
        run: Does it; takes one value of each kind.
        kinds: Frozen dataclasses whose fields are its options.
        words: Names of the options that stand without their name, first.
    """

    summary: str
    run: Callable[..., object]
    kinds: tuple[type[Any], ...]
    words: tuple[str, ...] = ()


ACTIONS = {
    "build": Action(
        "Make a store of a folder of text, go on with one that was interrupted, or mend one.",
        actions.build,
        (SourceConfig, configs.BuildConfig, configs.EngineConfig),
    ),
    "search": Action("Find the nearest chunks of a text.", actions.search, (configs.SearchConfig,), ("text",)),
    "add": Action(
        "Add documents; what is there is not computed again.",
        actions.add,
        (SourceConfig, configs.AddConfig, configs.EngineConfig),
    ),
    "remove": Action(
        "Remove documents by name; no later answer shows their text.",
        actions.remove,
        (configs.RemoveConfig,),
        ("names",),
    ),
    "evaluate": Action(
        "Measure answers by queries whose right documents are known: nDCG, MRR, recall.",
        actions.evaluate,
        (configs.EvaluateStoreConfig,),
        ("queries",),
    ),
    "upgrade": Action(
        "Rebuild a store of an earlier version from its own text.",
        actions.upgrade,
        (configs.StoreConfig, configs.EngineConfig),
    ),
    "sync": Action(
        "Bring a store in line with its source: add what is new, replace what changed, remove what is gone.",
        actions.sync,
        (SourceConfig, configs.SyncConfig, configs.EngineConfig),
    ),
    "list": Action("List the documents of a store.", actions.list_documents, (configs.StoreConfig,)),
    "gc": Action(
        "Take earlier versions, and the text of removed documents, off the disk.",
        actions.gc,
        (configs.StoreConfig, configs.EngineConfig),
    ),
    "reindex": Action(
        "Make vectors and indexes again from the text that is kept; no source is needed.",
        actions.reindex,
        (configs.ReindexConfig, configs.EngineConfig),
    ),
    "serve": Action(
        "Serve a store over HTTP, and to assistants by MCP.",
        actions.serve,
        (configs.ServeStoreConfig,),
    ),
    "verify": Action("Read everything and name what is damaged.", actions.verify, (configs.StoreConfig,)),
    "info": Action("Show counts, sizes, indexes and their recall.", actions.info, (configs.StoreConfig,)),
    "plan": Action("Work out sizes and hours for a corpus that does not fit here.", actions.plan, (PlanConfig,)),
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
        conditions = frozenset({"where"} if kind is configs.SearchConfig else ())
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
    values = [read_config(_parser(action, parser), asked, kind, **words) for kind in action.kinds]
    result = action.run(*values)
    if isinstance(result, Shown):
        content = json.dumps(result.content(), ensure_ascii=False, indent=1) if as_json else "\n".join(result.lines())
        print(content)
    if isinstance(result, Verdict) and result.damage:
        sys.exit(1)
