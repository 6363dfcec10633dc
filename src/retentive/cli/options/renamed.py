"""Options by the names that they had before, typed or in a file: taken for those of today, and told once."""

import sys
from collections.abc import Iterator, Mapping

import yaml

from retentive.cli.mistakes import is_first_to_say


def new_name(option: str, names: Mapping[str, str]) -> str:
    """An option by today's name, that of a group that it stands below included.

    Args:
        option: As in ``model.base.hidden_size``.
        names: Option or group -> today's name.
    """
    for old, new in names.items():
        if option == old or option.startswith(f"{old}."):
            return new + option.removeprefix(old)
    return option


def with_new_names(arguments: list[str], names: Mapping[str, str]) -> list[str]:
    """What was typed, by today's names.

    Raises:
        ValueError: If an option is typed by both of its names.
    """
    typed = {argument.partition("=")[0][2:] for argument in arguments if argument.startswith("--")}
    changed = {name: new_name(name, names) for name in typed if new_name(name, names) != name}
    for old, new in changed.items():
        if new in typed:
            raise ValueError(f"--{new} must not be given with --{old}, its former name: leave --{old} out.")
        _tell(f"--{old} is called --{new} now.")
    renamed: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        renamed.append(
            f"--{changed[name[2:]]}{equals}{value}" if name[:2] == "--" and name[2:] in changed else argument
        )
    return renamed


def yaml_with_new_names(text: str, names: Mapping[str, str], source: str) -> str:
    """The YAML of options by today's names; all else in it stands as it did.

    Args:
        text: A mapping of options, with underscores in their names.
        names: Option or group -> today's name.
        source: Where the text is from, for messages.

    Raises:
        ValueError: If an option has both of its names.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    keys = list(_keys(root)) if isinstance(root, yaml.MappingNode) else []
    given = {name for _, name, _ in keys}
    changes: dict[tuple[int, int], str] = {}  # by place: what stands below an anchor has several names
    for key, name, above in keys:
        new = new_name(name, names)
        word = new.removeprefix(new_name(above, names))
        if word == name.removeprefix(above):
            continue
        if new in given:
            raise ValueError(f"{source} must not give {name} and {new}, its name of today: remove {name}.")
        _tell(f"{source}: {name} is called {new} now.")
        changes[key.start_mark.index, key.end_mark.index] = word
    for begin, end in sorted(changes, reverse=True):  # so that the places before stay right
        text = text[:begin] + changes[begin, end] + text[end:]
    return text


def _keys(node: yaml.MappingNode, above: str = "") -> Iterator[tuple[yaml.ScalarNode, str, str]]:
    """Every key, the option's whole name, and what stands before the key in it."""
    for key, value in node.value:
        yield key, f"{above}{key.value}", above
        if isinstance(value, yaml.MappingNode):
            yield from _keys(value, f"{above}{key.value}.")


def _tell(line: str) -> None:
    if is_first_to_say(line):
        print(f"retentive: {line}", file=sys.stderr)
