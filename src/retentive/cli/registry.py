"""The commands: their names, what they do, and how one is run."""

import difflib
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from retentive.cli.mistakes import TRACEBACK, UsageError, is_out_of_memory, out_of_memory

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

COMMANDS = {
    "prepare": "Turn a folder of text into tokens on disk.",
    "train": "Train a model on prepared tokens, or go on training.",
    "curriculum": "Train a model on texts that grow stage by stage: tasks of memory, or prepared tokens.",
    "evaluate": "Measure a trained model: bits per byte, loss by position, or tasks of lm-evaluation-harness.",
    "inspect": "Show the parts of a model, what its state holds, and how long its heads remember.",
    "generate": "Write text as a stream; save the state and go on later.",
    "serve": "Serve a model over HTTP: OpenAI's API, stored sessions, and a page.",
    "chat": "Talk with a model in the terminal; every conversation is kept and goes on.",
    "index": "Build and search a datastore of text; add, remove, verify, plan.",
    "recall": "Train small models, and test how long they keep a fact: up to a million bytes.",
    "convert": "Convert a checkpoint of another package.",
    "quantise": "Round a model's weights to 8 or 4 bits.",
    "linearise": "Turn attention layers of a Transformer into retention, matched and distilled.",
    "export": "Compile a model's steps ahead of time.",
    "remember": "Put a memory around a pretrained model, and test how far it carries a word.",
    "retro_evidence": "Test whether neighbours help: RETRO with, without and with wrong ones; two hours.",
    "retrieval_evidence": "Measure ways to use one datastore: in context, nearest tokens, RETROfit, RETRO; an hour.",
    "demo": "Run everything on real text, with a report: ten minutes on a laptop.",
}
"""Name -> what it does; each is a module of `commands` or of `experiments`, with `add_options` and `run`."""
_EXPERIMENTS = frozenset({"demo", "linearise", "recall", "remember", "retrieval_evidence", "retro_evidence"})
"""Those that train models to show something; see `retentive.experiments`."""


class Command(Protocol):
    """One command: a module.

    ``POSITIONAL``, where it has one, names the option that may stand first without its name.
    """

    def add_options(self, parser: "ArgumentParser", arguments: list[str]) -> None:
        """Add the command's options; ``arguments`` are what the user typed, for options that depend on others."""
        ...

    def run(self, parser: "ArgumentParser", options: "Namespace") -> None:
        """Run the command."""
        ...


def run_or_explain(arguments: list[str]) -> None:
    """Run the command that was typed, or list the commands.

    Raises:
        UsageError: If there is no such command; the message names the nearest.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        print(overview())
    elif name in ("--version", "-V"):
        from retentive import __version__

        print(f"retentive {__version__}")
    elif name in COMMANDS:
        run(name, arguments[1:])
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"; did you mean {near[0]!r}?" if near else f"; the commands are {', '.join(COMMANDS)}."
        raise UsageError(f"there is no command {name!r}{meant}")


def run(name: str, arguments: list[str]) -> None:
    """Parse the options of one command and run it.

    Raises:
        OutOfMemoryError: If memory runs out; the message names the options that save some.
    """
    with stopping_at_once():
        from retentive.cli.options.file import files_first
        from retentive.cli.options.from_config import CommandParser
        from retentive.cli.options.renamed import new_name, with_new_names

        room = "experiments" if name in _EXPERIMENTS else "commands"
        command = cast("Command", import_module(f"retentive.cli.{room}.{name}"))
    parser = CommandParser(prog=f"retentive {name}", description=COMMANDS[name])
    arguments = [_with_underscores(argument) for argument in arguments]
    positional = getattr(command, "POSITIONAL", None)
    if positional:
        parser.first_word = positional
        parser.usage = f"%(prog)s {positional.upper()} [--option value ...]"
    if positional and arguments and not arguments[0].startswith("-"):
        arguments = [f"--{positional}", *arguments]
    parser.typed |= {argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")}
    arguments = files_first(arguments)
    command.add_options(parser, arguments)
    parser.typed |= {new_name(option, parser.renamed) for option in parser.typed}
    options = parser.parse_args(with_new_names(arguments, parser.renamed))
    try:
        command.run(parser, options)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(error, options.keys()) from error


@contextmanager
def stopping_at_once() -> Generator[None]:
    """Ctrl-C ends the process where it stands: modules that are interrupted while they load print tracebacks."""

    def stop(number: int, frame: object) -> None:
        os.write(sys.stderr.fileno(), b"\nretentive: stopped.\n")
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    # Signals may be ignored (`retentive ... &`), handled by who calls us, or closed to all but the main thread.
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _with_underscores(argument: str) -> str:
    """``--save-state=x`` as ``--save_state=x``: options are fields of configs, and either spelling is fine."""
    if not argument.startswith("--"):
        return argument
    option, *value = argument.split("=", 1)
    return "=".join(["--" + option[2:].replace("-", "_"), *value])


def overview() -> str:
    """What ``retentive --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  retentive {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Language models that remember. A folder of text becomes a model that is measured, and streams.",
            "",
            *lines,
            "",
            "retentive COMMAND --help lists the options of a command.",
            f"{TRACEBACK}=1 shows where in the code an error was raised.",
        ]
    )
