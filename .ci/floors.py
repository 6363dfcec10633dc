"""Print the lower bound of every requirement of some extras, as constraints for pip: ``python .ci/floors.py test``.

What ``pyproject.toml`` promises is then what ``make test-oldest`` installs. torch is left to ``constraints.txt``.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(?:\[(?P<extras>[\w, -]+)\])?\s*(?P<bounds>[^;]*)")
PINNED = {"torch"}


def requirements(project: dict, extras: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the bounds of what the project and the extras need, extras of extras included."""
    own, seen, left = project["name"], set[str](), list(extras)
    lines = list(project["dependencies"])
    while left:
        extra = left.pop()
        if extra not in seen:
            seen.add(extra)
            lines += project["optional-dependencies"][extra]
            names = [REQUIREMENT.match(line) for line in project["optional-dependencies"][extra]]
            left += [inner.strip() for match in names if match["name"] == own for inner in match["extras"].split(",")]
    for line in lines:
        match = REQUIREMENT.match(line)
        if match["name"] != own:
            yield match["name"].lower().replace("_", "-"), match["bounds"]


def floors(project: dict, extras: list[str]) -> dict[str, str]:
    """Return the lower bound of each package; where several stand, they must agree.

    Raises:
        ValueError: If a requirement has no lower bound, or two that differ.
    """
    found: dict[str, str] = {}
    for name, bounds in requirements(project, extras):
        if name in PINNED:
            continue
        lowest = re.search(r">=\s*([\w.]+)", bounds)
        if lowest is None:
            raise ValueError(f"{name} must have a lower bound in pyproject.toml, but has {bounds or 'none'!r}.")
        if found.setdefault(name, lowest[1]) != lowest[1]:
            raise ValueError(f"{name} must have one lower bound, but has {found[name]} and {lowest[1]}.")
    return dict(sorted(found.items()))


if __name__ == "__main__":
    metadata = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    for package, version in floors(metadata["project"], sys.argv[1:]).items():
        print(f"{package}=={version}")
