"""The command ``retentive``: find the command, parse its options, call one function."""

import difflib
import os
import signal
import sys
from importlib import import_module
from typing import Protocol, cast

try:
    from jsonargparse import ArgumentParser, Namespace
except ModuleNotFoundError:  # the command is installed with the library, which needs no parser
    print(
        "retentive: commands need jsonargparse, which is not installed: pip install 'retentive[train]'", file=sys.stderr
    )
    sys.exit(2)

from retentive.cli.options import CommandParser
from retentive.errors import RetentiveError

COMMANDS = {
    "prepare": "Turn a folder of text into tokens on disk.",
    "train": "Train a model on them.",
    "evaluate": "Measure a trained model in bits per byte and by position.",
    "inspect": "Look into a model: its parts, what its state holds, how long its heads remember.",
    "generate": "Write text as a stream; save the state and go on later.",
    "index": "Build and search a store of text; add, remove, verify, plan.",
    "recall": "Show how long a small memory holds a fact: a million bytes, trained here.",
    "convert": "Read a checkpoint of another package.",
    "retro_evidence": "Whether neighbours help: RETRO on, off and misled beside a Transformer; half an hour.",
    "demo": "All of it on real text, with a report: ten minutes on a laptop.",
}
"""Name -> what it does; each is a module of this package with `add_options` and `run`."""

TRACEBACK = "RETENTIVE_TRACEBACK"
"""Environment variable that shows where an error was raised."""

MISTAKES = (RetentiveError, ValueError, OSError, ImportError)
"""Errors whose message is all that a user needs."""


class Command(Protocol):
    """A module of this package that is one command.

    ``POSITIONAL``, where it has one, names the option that may stand first without its name.
    """

    def add_options(self, parser: ArgumentParser, arguments: list[str]) -> None:
        """Add the command's options; ``arguments`` are what the user typed, for options that depend on others."""
        ...

    def run(self, parser: ArgumentParser, options: Namespace) -> None:
        """Do what was asked."""
        ...


def main(arguments: list[str] | None = None) -> None:
    """Run ``retentive COMMAND OPTIONS``; exit with 0, with 2 after a mistake of the user's, with 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _run_or_explain(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would end the ending in a traceback
        print("\nretentive: stopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MISTAKES as error:
        if os.environ.get(TRACEBACK):
            raise
        _stop(str(error))


def _run_or_explain(arguments: list[str]) -> None:
    """Run the command that was typed, or say which there are."""
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
        _stop(f"there is no command {name!r}{meant}")


def run(name: str, arguments: list[str]) -> None:
    """Parse the options of one command and run it."""
    command = cast("Command", import_module(f"retentive.cli.{name}"))
    parser = CommandParser(prog=f"retentive {name}", description=COMMANDS[name])
    parser.add_argument("--config", action="config", help="YAML file with these options; the command line overrides it")
    arguments = [_with_underscores(argument) for argument in arguments]
    positional = getattr(command, "POSITIONAL", None)
    if positional:
        parser.first_word = positional
        parser.usage = f"%(prog)s {positional.upper()} [--option value ...]"
    if positional and arguments and not arguments[0].startswith("-"):
        arguments = [f"--{positional}", *arguments]
    command.add_options(parser, arguments)
    command.run(parser, parser.parse_args(arguments))


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


def _stop(message: str) -> None:
    print(f"retentive: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
