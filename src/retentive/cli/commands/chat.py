"""``retentive chat``: a conversation in the terminal, whose state is kept."""

import io
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from retentive.cli.interrupts import Interrupts
from retentive.cli.mistakes import explanation
from retentive.cli.options.from_config import add_config, read_config
from retentive.errors import RetentiveError
from retentive.files.targets import check_folder_target
from retentive.generation.chat.config import ChatConfig, OpenChat, open_chat
from retentive.generation.chat.conversation import Answer, Conversation
from retentive.generation.chat.sessions import (
    is_conversation,
    list_sessions,
    load_conversation,
    save_conversation,
    session_path,
)

POSITIONAL = "checkpoint"
HELP = """\
/fork [NAME]    go on in a copy; the conversation so far stays as it is under its name
/save [FILE]    write the conversation; every answer does it, into the folder of conversations
/sessions       list the conversations
/resume NAME    go on with another one
/sources        what was read from the datastore for the last answer
/quit           end (or Ctrl-D); Ctrl-C stops an answer, and the conversation goes on from there"""


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `ChatConfig`."""
    add_config(parser, ChatConfig, texts=frozenset({"session", "system"}))


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Talk until the user ends it."""
    config = read_config(parser, options, ChatConfig)
    if config.list:
        print(_listed(config.folder))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without a character shows another, and goes on
        sys.stdout.reconfigure(errors="replace")
    check_folder_target("folder", config.folder)
    name = config.session or time.strftime("%Y-%m-%d-%H%M%S")
    path = session_path(config.folder, name)
    chat = open_chat(config)
    with suppress(ImportError):
        import_module("readline")  # arrow keys and earlier lines, where Python has it
    terminal = Terminal(chat, config, name, load_conversation(path, chat.model) if path.exists() else chat.begin)
    terminal.greet()
    while terminal.take(_line()):
        pass


def _line() -> str | None:
    """What the user types; None at the end of the input. Ctrl-C drops a line: it may come just too late."""
    is_typed = sys.stdin.isatty()
    try:
        return input("> " if is_typed else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        if not is_typed:
            raise
        print(flush=True)
        _say("nothing is being written; Ctrl-D ends.")
        return ""


def _listed(folder: Path) -> str:
    found = list_sessions(folder)
    if not found:
        return f"there are no conversations in {folder}."
    width = max(len(one.name) for one in found)
    return "\n".join(
        f"{one.name:<{width}}  {_answers(one.turns):>12}  {one.tokens_read:>8,} tokens  {one.said[:60]}"
        for one in found
    )


def _answers(number: int) -> str:
    return f"{number:,} answer{'' if number == 1 else 's'}"


class Terminal:
    """What a line that the user types does.

    Args:
        chat: The model.
        config: Where conversations are kept, and what is shown.
        name: Of the conversation.
        conversation: What was said before.
    """

    def __init__(self, chat: OpenChat, config: ChatConfig, name: str, conversation: Conversation) -> None:
        self._chat, self._config = chat, config
        self._name, self._conversation = name, conversation
        self._is_kept = True
        self._sources: list[str] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: print(HELP),
            "fork": self._fork,
            "save": self._save,
            "sessions": lambda _: print(_listed(config.folder)),
            "resume": self._resume,
            "sources": lambda _: self._show_sources(),
        }

    def greet(self) -> None:
        """Say what goes on."""
        turns = self._conversation.turns
        known = f"{_answers(turns)}, {self._conversation.tokens_read:,} tokens" if turns else "new"
        _say(f"conversation {self._name} ({known}); /help lists what else can be typed.")

    def take(self, line: str | None) -> bool:
        """Do what a line says; False where the user ends it.

        Raises:
            OSError: If it is ended and cannot be kept.
        """
        if line is None or line.strip() == "/quit":
            self._keep()
            if self._conversation.turns:
                _say(f"kept: go on with --session {self._name}")
            return False
        try:
            self._do(line.strip())
        except (RetentiveError, ValueError, OSError) as error:
            _say(explanation(error) or str(error))
        return True

    def _do(self, line: str) -> None:
        if not line.startswith("/"):
            if line:
                self._answer(line)
            return
        name, _, rest = line[1:].partition(" ")
        if name not in self._commands:
            raise ValueError(f"there is no /{name}: /help lists what there is.")
        self._commands[name](rest.strip())

    def _answer(self, said: str) -> None:
        begin = time.perf_counter()
        answer = self._chat.chat.answer(self._conversation, said, retriever=self._chat.retriever)
        first = self._print(answer)
        if first is None:  # the state may be that of half a token
            _say("stopped within a token: nothing of this turn is kept.")
            return
        self._conversation = answer.conversation
        if not answer.num_written:
            _say("stopped before the answer began: nothing of this turn is kept.")
            return
        if self._chat.sources is not None:
            self._sources = self._chat.sources.new_lines(answer.tokens)
        self._is_kept = False
        self._keep()
        if not answer.ended and answer.num_written == self._config.max_new_tokens:
            _say(f"the answer was ended after {answer.num_written} tokens; --max_new_tokens allows longer ones.")
        if self._config.show_tokens:
            seconds = time.perf_counter() - first
            rate = f"{(answer.num_written - 1) / seconds:.1f} a second" if answer.num_written > 1 else "one"
            _say(
                f"read {answer.num_read} tokens in {first - begin:.2f} s, 0 of them again; wrote {answer.num_written} "
                f"({rate}); {self._conversation.tokens_read:,} in all."
            )

    def _keep(self) -> None:
        """Write the conversation where that failed before, as on a full disk, or was not tried yet."""
        if not self._is_kept:
            save_conversation(self._conversation, session_path(self._config.folder, self._name), self._chat.model)
            self._is_kept = True

    def _print(self, answer: Answer) -> float | None:
        """Write an answer as it comes, until it ends or Ctrl-C; return when its first token came.

        None after a second Ctrl-C, which waits for no token.
        """
        first = time.perf_counter()
        try:
            with Interrupts() as interrupts:
                for text in answer:
                    first = time.perf_counter() if answer.num_written == 1 else first
                    print(text, end="", flush=True)
                    if interrupts.asked:
                        break
        except KeyboardInterrupt:
            first = None
        print(flush=True)
        return first

    def _fork(self, name: str) -> None:
        if not self._conversation.turns:
            raise ValueError("a conversation must have an answer before it is forked, but nothing was said yet.")
        name = name or self._free_name()
        path = session_path(self._config.folder, name)
        if path.exists():
            raise ValueError(f"there is a conversation {name} already: /resume {name} goes on with it.")
        self._keep()
        save_conversation(self._conversation, path, self._chat.model)
        _say(f"{self._name} stays as it is; this is {name}.")
        self._name = name

    def _free_name(self) -> str:
        number = 2
        while session_path(self._config.folder, f"{self._name}-{number}").exists():
            number += 1
        return f"{self._name}-{number}"

    def _save(self, file: str) -> None:
        path = Path(file).expanduser() if file else session_path(self._config.folder, self._name)
        if path.exists() and not is_conversation(path):
            raise ValueError(f"there is a file {path} already, which is no conversation: give another name.")
        save_conversation(self._conversation, path, self._chat.model)
        _say(f"saved as {path}")

    def _resume(self, name: str) -> None:
        if not name:
            raise ValueError("/resume needs the name of a conversation; /sessions lists them.")
        self._keep()
        self._conversation = load_conversation(session_path(self._config.folder, name), self._chat.model)
        self._name, self._sources = name, []
        self.greet()

    def _show_sources(self) -> None:
        if self._chat.sources is None:
            raise ValueError("there are no sources: the model reads no datastore (--store, for a RETRO).")
        print("\n".join(self._sources).strip() or "nothing was looked up for the last answer: no chunk ended in it.")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
