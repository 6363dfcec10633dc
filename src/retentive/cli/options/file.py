"""Files of options, for ``--config``: YAML whose keys are options, each once, with hyphens or underscores."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from retentive.cli.options.renamed import yaml_with_new_names
from retentive.private_apis import options_of


class OptionsFileError(ValueError):
    """A file of options that cannot be used; the message names it."""


@runtime_checkable
class ReadsOptionsFiles(Protocol):
    """A parser that wants to know which file an option came from, and which options had another name before.

    Attributes:
        files: Option -> the file that gives it.
        renamed: Option, or group of options, by its name before -> by today's name.
    """

    files: dict[str, str]
    renamed: dict[str, str]


class OptionsFile(ActionConfigFile):
    """The option ``--config``: checks a file before the parser takes its options."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: str) -> None:
        """Give the file's options to the parser; text that is no path is YAML itself."""
        names = parser.renamed if isinstance(parser, ReadsOptionsFiles) else {}
        if value.lstrip().startswith("{"):
            value = yaml_with_new_names(checked_options(value, "config"), names, "config")
            _check_names_no_file(yaml.safe_load(value), "config")
            ActionConfigFile.apply_config(parser, cfg, dest, value)
            return
        text = yaml_with_new_names(read_options_text(Path(value)), names, value)
        _check_names_no_file(yaml.safe_load(text), value)
        if isinstance(parser, ReadsOptionsFiles):
            parser.files |= dict.fromkeys(option_names(yaml.safe_load(text)), value)
        text = _with_files_of_groups(parser, text, value)
        ActionConfigFile.apply_config(parser, cfg, dest, text)


def _check_names_no_file(content: object, path: str) -> None:
    """Refuse options that name another file of options."""
    if isinstance(content, dict) and "config" in content:
        raise OptionsFileError(f"{path}: config stands on the command line alone; put all options into one file.")


def _with_files_of_groups(parser: ArgumentParser, text: str, path: str) -> str:
    """The YAML with what stands in the files that it names for groups of options: ``optimizer: slow.yaml``.

    Raises:
        OptionsFileError: If a number, a list or nothing stands where options stand below a name.
    """
    groups = groups_of(parser)
    root = cast("yaml.MappingNode", yaml.compose(text, Loader=yaml.SafeLoader))
    content: dict[Any, Any] = yaml.safe_load(text)
    for key, node in reversed(root.value):
        name, value = key.value, content.get(key.value)
        if name not in groups or isinstance(value, dict):
            continue
        if not isinstance(value, str):
            raise OptionsFileError(
                f"{path}: {name} is a group of options, one 'name: value' a line below it, but is {value!r}."
            )
        inside = json.dumps(yaml.safe_load(group_options(parser, name, value)), default=str)
        text = text[: node.start_mark.index] + inside + text[node.end_mark.index :]
    return text


def groups_of(parser: ArgumentParser) -> frozenset[str]:
    """Names below which options stand, as ``optimizer``."""
    return frozenset(option.dest.rpartition(".")[0] for option in options_of(parser) if "." in option.dest)


def group_options(parser: ArgumentParser, group: str, value: str) -> str:
    """The YAML of a group's options, checked: of a file, or the text itself where it is some.

    Args:
        parser: Is told which file an option is from.
        group: Its name.
        value: What was given.
    """
    is_text = value.lstrip().startswith("{")
    if not is_text and not os.path.lexists(value):
        return value  # which the parser refuses
    text = checked_options(value, f"--{group}") if is_text else read_options_text(Path(value))
    if isinstance(parser, ReadsOptionsFiles):
        here = f"{group}."
        inside = {old: new for old, new in parser.renamed.items() if old.startswith(here) and new.startswith(here)}
        short = {old.removeprefix(here): new.removeprefix(here) for old, new in inside.items()}
        text = yaml_with_new_names(text, short, f"--{group}" if is_text else value)
        if not is_text:
            parser.files |= dict.fromkeys(option_names(yaml.safe_load(text), here), value)
    return text


def with_options_of_groups(parser: ArgumentParser, arguments: Iterable[str]) -> list[str]:
    """What was typed, with what stands in files that are given for groups of options."""
    groups = groups_of(parser)
    taken: list[str] = []
    each = iter(arguments)
    for argument in each:
        name, equals, value = argument.partition("=")
        given = [value] if equals else []
        if name[:2] == "--" and name[2:] in groups:
            given = given or list(islice(each, 1))
            taken.append("=".join([name, *(group_options(parser, name[2:], value) for value in given)]))
        else:
            taken.append(argument)
    return taken


def read_options(path: Path) -> dict[str, Any]:
    """The options in a file, as they stand.

    Raises:
        OptionsFileError: As `read_options_text`.
    """
    return yaml.safe_load(read_options_text(path))


def read_options_text(path: Path) -> str:
    """The YAML of a file, checked, with underscores for the hyphens of its keys.

    Raises:
        OptionsFileError: If the file cannot be read, is no mapping of options, or gives an option twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise OptionsFileError(f"config {path} cannot be read ({error.strerror}): give the path of a file.") from error
    except UnicodeDecodeError as error:
        raise OptionsFileError(f"{path} must be UTF-8, but its byte {error.start:,} is not: convert it.") from error
    return checked_options(text, path)


def checked_options(text: str, path: object) -> str:
    """YAML with underscores for the hyphens of its keys.

    Args:
        text: The YAML.
        path: Where it is from, for messages.

    Raises:
        OptionsFileError: If it is no mapping of options, or gives an option twice.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise OptionsFileError(f"{path} is not YAML{_place(error)}.") from error
    if not isinstance(root, yaml.MappingNode):
        raise OptionsFileError(f'{path} must hold options, one "name: value" a line, but holds none.')
    letters = list(text)
    for key, _ in _keys(root, path):
        place = slice(key.start_mark.index, key.end_mark.index)
        letters[place] = text[place].replace("-", "_")
    try:
        json.dumps(yaml.safe_load(text), default=str)
    except yaml.YAMLError as error:
        raise OptionsFileError(f"{path} is not plain YAML{_place(error)}.") from error
    except ValueError as error:  # a part that holds itself, by an anchor
        raise OptionsFileError(f"{path} must hold plain values, but one of them holds itself: {error}.") from error
    except TypeError as error:  # a key that JSON has no name for
        raise OptionsFileError(f"{path}: the name of an option must be a word ({error}).") from error
    return "".join(letters)


def option_names(content: dict[Any, Any], above: str = "") -> Iterator[str]:
    """Names of all options in a file, those of a group with a dot: ``optimizer.learning_rate``."""
    for name, value in content.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from option_names(cast("dict[Any, Any]", value), f"{above}{name}.")


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f", line {mark.line + 1}"
    return f"{where}: {getattr(error, 'problem', None) or error}"


def files_first(arguments: list[str]) -> list[str]:
    """The arguments in the order in which what is typed takes the place of what a file says, wherever it stands.

    A word that stands first is an action, whose options these are.
    """
    files: list[str] = []
    typed: list[str] = []
    each = iter(arguments)
    if arguments and not arguments[0].startswith("-"):
        files.append(next(each))
    for argument in each:
        if argument == "--config":
            files += [argument, *islice(each, 1)]
        else:
            (files if argument.startswith("--config=") else typed).append(argument)
    return files + typed


def typed_or_in_file(arguments: list[str], option: str, *before: str) -> str | None:
    """The value of an option that decides which other options there are: typed, or in the YAML that is given.

    Of several values of one kind, the last one counts.

    Args:
        arguments: Of the command line.
        option: Its name.
        before: Names that it had before.
    """
    typed: str | None = None
    in_file: object = None
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        value = value if equals else next(iter(arguments[place + 1 :]), "")
        if name[:2] == "--" and name[2:] in (option, *before):
            typed = value
        elif name == "--config":
            given = _options_given(value)
            in_file = next((given[each] for each in (option, *before) if each in given), in_file)
    # What is no text, such as a list, is refused when all is read.
    return (in_file if isinstance(in_file, str) else None) if typed is None else typed


def _options_given(config: str) -> dict[str, Any]:
    """The options of a file, or of YAML in its place; none where it is neither, which the parser tells."""
    if not config.lstrip().startswith("{"):
        return read_options(Path(config)) if Path(config).is_file() else {}
    try:
        return {str(name).replace("-", "_"): value for name, value in yaml.safe_load(config).items()}
    except (yaml.YAMLError, AttributeError):
        return {}


def _keys(node: yaml.MappingNode, path: object, above: str = "") -> Iterator[tuple[yaml.ScalarNode, str]]:
    """Every key of a mapping and of those inside it."""
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise OptionsFileError(f"{path}, line {line}: the name of an option must be a word.")
        name = key.value.replace("-", "_")
        if name in lines:
            raise OptionsFileError(
                f"{path} gives the option {above}{name} twice, in lines {lines[name]} and {line}: remove one."
            )
        lines[name] = line
        yield key, name
        if isinstance(value, yaml.MappingNode):
            yield from _keys(value, path, f"{above}{name}.")
