"""``retentive generate``: text as a stream, and a state that goes on later."""

import sys

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.interrupts import Interrupts
from retentive.cli.options.from_config import add_config, read_config
from retentive.generation.session import GenerateConfig, TextSession

POSITIONAL = "checkpoint"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `GenerateConfig`."""
    add_config(parser, GenerateConfig, texts=frozenset({"prompt", "stop", "system", "logit_bias"}))


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Stream text to standard output."""
    config = read_config(parser, options, GenerateConfig)
    prompt = _prompt(config.prompt)
    session = TextSession(config, prompt)
    print(session.before, end="")
    if config.echo and prompt:
        print(prompt, end="", flush=True)
    finished = _print(session)
    print(session.rest(), flush=True)
    if config.save_state is not None:
        session.save(config.save_state)
        print(f"state saved: go on with --state {config.save_state}", file=sys.stderr)
    if not finished:
        raise KeyboardInterrupt


def _prompt(asked: str | None) -> str | None:
    """The text to go on from; None where none was asked for."""
    if asked is None:
        return None
    place, content = "prompt", asked.encode("utf-8", "surrogateescape")  # what the shell gave
    if asked == "-":
        place, content = "prompt from standard input", sys.stdin.buffer.read()
    try:
        prompt = content.decode("utf-8").removeprefix("\ufeff")  # the byte order mark of a file
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place} must be UTF-8, but its byte {error.start:,} is 0x{content[error.start]:02x}: convert it."
        ) from error
    if not prompt:
        raise ValueError(f"{place} must have at least one character, but is empty: leave it out to go on without.")
    return prompt


def _print(session: TextSession) -> bool:
    """Write text as it comes; False if Ctrl-C ended it."""
    with Interrupts() as interrupts:
        for written in session:
            if written.beside:
                print("\n".join(written.beside), file=sys.stderr, flush=True)
            print(written.text, end="", flush=True)
            if interrupts.asked:
                return False
    return True
