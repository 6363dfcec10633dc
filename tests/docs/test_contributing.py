"""What CONTRIBUTING.md names is there: a stranger adds parts by it alone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDED = re.compile(r"<\w+>|\"\w+\"")
"""What a reader names himself."""


def names_without_code(text: str, known: set[str]) -> list[str]:
    """Names of several words, in backticks, that no file of the repository has or is called by."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = [ADDED.sub("", span) for span in re.findall(r"`([^`]+)`", prose)]
    return [name for span in spans for name in re.findall(r"[a-z]+(?:_[a-z]+)+", span) if name not in known]


def known_names() -> set[str]:
    files = [path for folder in ("src", "tests", ".ci") for path in (ROOT / folder).rglob("*.py")]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text("utf-8"))}
    return words | {path.stem for path in files}


def test_what_contributing_names_is_there():
    assert names_without_code((ROOT / "CONTRIBUTING.md").read_text("utf-8"), known_names()) == []


def test_a_name_that_is_gone_is_found():
    text = 'Where `place.gone_name` is True, `tests/test_<name>.py` and `a("my_mixer")`; see `layers.token_place`.'
    assert names_without_code(text, {"token_place"}) == ["gone_name"]
