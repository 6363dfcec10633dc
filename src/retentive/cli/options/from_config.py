"""Options of a command from the fields of a frozen dataclass: names, types, defaults and help are written once."""

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type

from retentive.cli.options.file import OptionsFile, with_options_of_groups
from retentive.cli.options.texts import add_texts
from retentive.private_apis import options_of

Config = TypeVar("Config")

_UNKNOWN = re.compile(
    r"unrecognized arguments: (?P<words>.*)"
    r"|Option '(?P<key>[^']*)' is not accepted"
    r"|Group '(?P<group>[^']*)' does not accept option '(?P<member>[^']*)'"
)
_WRONG_TYPE = re.compile(
    r"Parser key \"(?P<name>[^\"]*)\":\s+Expected a <class '(?P<type>\w+)'>\. Got value: (?P<value>.*)"
)
_REFUSED = re.compile(r"Parser key \"(?P<name>[^\"]*)\": must ")
_CHOICE = re.compile(
    r"Parser key \"(?P<name>[^\"]*)\":\s+Expected a typing\.Literal\[(?P<choices>[^\]]*)\]\. Got value: (?P<value>.*)",
    re.S,
)
_UNION = re.compile(
    r"Parser key \"(?P<name>[^\"]*)\":\s+Does not validate against any of the Union subtypes\s+Subtypes: "
    r"(?P<kinds>\[.*?\]\.?)\n.*Given value(?: type)?: (?P<value>[^\n]*)",
    re.S,
)
_NO_PATH = re.compile(r"Parser key \"(?P<name>[^\"]*)\":\s+Not of type Path: (?P<rule>must be a path, .*)")
_GROUP = re.compile(r"Parser key \"(?P<name>[^\"]*)\":\s+Unable to load config ['\"](?P<value>.*?)['\"]\n", re.S)
_KINDS = {
    **{"NoneType": "null", "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"},
    **dict.fromkeys(("tuple", "list"), "a list, as [1, 2]"),
    **dict.fromkeys(("Path", "pathlib.Path"), "a path"),
}
_NO_UTF_8 = re.compile(r"Parser key \"(?P<name>[^\"]*)\":\s+'utf-8' codec can't encode character.*", re.S)
_NAMED = re.compile(r"(?:[Oo]ption '|Parser key \")(?P<name>[^'\"]*)")


def _path(given: object) -> Path:
    """A path of the command line; an empty one, as of a shell's variable that is not set, would be this folder."""
    if not isinstance(given, str | Path) or not str(given):
        raise ValueError(f"must be a path, but is {given!r}")
    return Path(given)


class CommandParser(ArgumentParser):
    """Takes options by their full names, and says what is wrong with them in two lines, not below a page of usage.

    Attributes:
        first_word: The option that may stand first without its name; None where a command has none.
        files: Option -> the file of ``--config`` that gives it; shared with the parsers of subcommands.
        typed: Options on the command line, which take the place of those in files; shared too.
        renamed: Option, or group of options, by its name before -> by today's name; shared too.
        elsewhere: Group of options that another choice would give -> what to type for them.
        choices: Option that is one of several words -> these.
    """

    def __init__(self, *, parent: "CommandParser | None" = None, **given: Any) -> None:
        # An option is its whole name: what is short today could mean another option tomorrow.
        given.setdefault("allow_abbrev", False)
        super().__init__(default_env=False, **given)
        register_type(Path, deserializer=_path, type_check=isinstance, fail_already_registered=False)
        self.first_word: str | None = None
        self.files: dict[str, str] = {} if parent is None else parent.files
        self.typed: set[str] = set() if parent is None else parent.typed
        self.renamed: dict[str, str] = {} if parent is None else parent.renamed
        self.elsewhere: dict[str, str] = {}
        self.choices: dict[str, Sequence[str]] = {}
        file_help = "YAML file with these options; the command line overrides it"
        self.add_argument("--config", action=OptionsFile, help=file_help)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None, **given: Any) -> Namespace:  # type: ignore[override]
        """Parse, and refuse options below one that has none: argparse takes ``--seeds.x 3`` for that one."""
        known = self._option_string_actions
        groups = {name.rpartition(".")[0] for name in known}
        for argument in args or ():
            option = argument.partition("=")[0]
            above = option
            while "." in above and above not in known:
                above = above.rpartition(".")[0]
            if option[:2] == "--" and above != option and above in known and above not in groups:
                self.error(f"unrecognized arguments: {argument}")
        args = None if args is None else with_options_of_groups(self, args)
        parsed = super().parse_args(args, namespace, **given)
        for name, words in self.choices.items():
            if parsed.get(name) is None:  # which the library lets pass
                self.error(f'Parser key "{name}": must be one of {", ".join(map(repr, words))}, but is null')
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with the message, the option that may have been meant, and where all are explained."""
        if not self.exit_on_error:
            super().error(message, ex)
        name = self.prog.replace(" [options]", "")  # which the library puts before the name of a subcommand
        found = _NAMED.search(message)
        origin = self.origin(found["name"]) if found else ""
        message = _in_one_line(message)
        print(f"{name}: {message.rstrip('.')}{origin}{self._cure(message)}", file=sys.stderr)
        print(f"{name} --help explains every option.", file=sys.stderr)
        self.exit(2)

    def origin(self, name: str) -> str:
        """The file that gives an option, in brackets, for the end of a message; empty where none gives it."""
        last = name.rpartition(".")[2]
        same = {option for option in self.files if option in (name, last) or option.endswith(f".{last}")} - self.typed
        return f" (in {self.files[min(same)]})" if same else ""

    def _cure(self, message: str) -> str:
        """How to go on after an option that does not exist; empty for other mistakes."""
        found = _UNKNOWN.search(message)
        if found is None:
            return "."
        key = found["key"] or f"{found['group']}.{found['member']}".replace("-", "_")
        words = (found["words"] or f"--{key}").split()
        asked = next((word.split("=")[0] for word in words if word.startswith("--")), None)
        if asked is None and self.first_word is not None:
            return f"; the {self.first_word} stands first: {self.prog} {self.first_word.upper()} --option value ..."
        if asked and asked[2:].partition(".")[0] in self.elsewhere:
            return f"; {self.elsewhere[asked[2:].partition('.')[0]]}."
        names = [name for name in self._option_string_actions if name.startswith("--") and f"{name}." not in f"{asked}"]
        near = difflib.get_close_matches(asked or "", names, 1)
        longer = [name for name in names if asked and name.startswith(asked)]
        if asked and (near or len(longer) == 1):
            return f"; did you mean {(longer if len(longer) == 1 else near)[0]}?"
        return "."


def _in_one_line(message: str) -> str:
    """What the parser says of a value, as this library says it."""
    message = _WRONG_TYPE.sub(
        lambda found: (
            f"{found['name']} must be {_KINDS.get(found['type'], found['type'])}, but is "
            f"{found['value'].strip() or repr('')}"
        ),
        message,
    )
    message = _NO_UTF_8.sub(r"\g<name> must be UTF-8, but has bytes that are not; if it is a path, rename it", message)
    message = _REFUSED.sub(r"\g<name> must ", message)
    message = _NO_PATH.sub(r"\g<name> \g<rule>", message)
    message = _CHOICE.sub(
        lambda found: f"{found['name']} must be one of {found['choices']}, but is {found['value'].strip() or repr('')}",
        message,
    )
    group = _GROUP.search(message)
    if group:
        name, value = group["name"], group["value"]
        return f"{name} is a group of options, --{name}.NAME, or takes a file of them, but is {value!r}"
    found = _UNION.search(message)
    if found:
        kinds: list[str] = re.findall(r"(?:class '|typing\.)?([\w.]+(?:\[[^\]]*\])?)", found["kinds"])
        # Releases of the parser name null first or last.
        kinds = sorted((kind for kind in kinds if kind != "class"), key=lambda kind: kind == "NoneType")
        nouns = [_KINDS.get(kind, _KINDS.get(kind.partition("[")[0], kind)) for kind in kinds]
        value = found["value"].strip() or repr("")
        message = f"{found['name']} must be {' or '.join(nouns)}, but is {value}"
    return " ".join(message.split())


def add_config(
    parser: ArgumentParser,
    kind: type[Any],
    *,
    leave_out: frozenset[str] = frozenset(),
    texts: frozenset[str] = frozenset(),
) -> None:
    """Add an option for every field of ``kind``; nested configs become dotted options.

    Args:
        parser: Gets the options.
        kind: A frozen dataclass.
        leave_out: Fields without an option.
        texts: Fields whose values count to the letter: "null" and "[DONE]" are texts like others.
    """
    parser.add_class_arguments(kind, skip=set(leave_out | texts), as_group=False)
    if texts:
        add_texts(parser, kind, texts)
    claims = {field.name for field in fields(kind) if field.type in (bool, "bool")}
    for action in options_of(parser):
        if action.dest in claims:
            action.nargs, action.const = "?", True  # a claim can stand alone: --echo is --echo true


def add_choice(parser: ArgumentParser, name: str, choices: Sequence[str], *, default: str, text: str) -> None:
    """Add an option that is one of several words; what a file says in its place, null too, is refused."""
    if isinstance(parser, CommandParser):
        parser.choices[name] = choices
    kind = cast("Any", Literal)[tuple(choices)]
    parser.add_argument(f"--{name}", type=kind, default=default, help=text)


def read_config(parser: ArgumentParser, options: Namespace, kind: type[Config], **given: Any) -> Config:
    """Make the config from parsed options.

    Raises:
        ValueError: If the config refuses a value; the message names the file that gives it, if one does.
    """
    try:
        made = parser.instantiate(options)
        values = {field.name: made[field.name] for field in fields(kind) if field.name in made}  # type: ignore[arg-type]
        return kind(**{**values, **given})
    except ValueError as error:
        origin = parser.origin(str(error).partition(" ")[0]) if isinstance(parser, CommandParser) else ""
        if not origin:
            raise
        raise type(error)(f"{str(error).rstrip('.')}{origin}.") from error
