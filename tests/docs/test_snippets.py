"""Every snippet of the README and the docs runs, one page's after another as a reader would, and every link leads on.

Shell commands of the README are run as they stand by ``.ci/readme``.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.places import make_place

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = sorted(DOCS.rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE]
NOT_RUN = "Not run by the tests: "
LANGUAGES = {
    "python": "run",
    "bash": "run",
    "text": "what was printed",
    "py": "a script for another package, before it moves",
}


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block."""

    language: str
    title: str
    text: str


def snippets(page: Path) -> list[Snippet]:
    fences = re.findall(r'^```(\S*)(?: title="([^"]*)")?\n(.*?)^```', page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [Snippet(*fence) for fence in fences]


def program(page: Path) -> str:
    """The page as one Python program; empty where there is nothing to run."""
    parts: list[str] = []
    for snippet in snippets(page):
        if snippet.language == "python":
            parts.append(snippet.text)
        elif snippet.language == "bash" and page in SITE and not snippet.title.startswith(NOT_RUN):
            parts.append(f"__import__('terminal').type_in({snippet.text!r})")
    return "\n".join(parts)


def name_of(page: Path) -> str:
    return (page.relative_to(DOCS) if page in SITE else page.relative_to(ROOT)).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if program(page)], ids=name_of)
def test_snippets_run(page: Path, tmp_path: Path):
    file, place = tmp_path / "page.py", tmp_path / "place"
    file.write_text(program(page), "utf-8")
    place.mkdir()
    make_place(name_of(page), place)
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, file], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_snippet_runs_or_says_why_not(page: Path):
    for snippet in snippets(page):
        assert snippet.language in LANGUAGES
        assert snippet.title == "" or (snippet.title.startswith(NOT_RUN) and len(snippet.title) > len(NOT_RUN))
    shown = sum(line.startswith("```") for line in page.read_text("utf-8").splitlines())
    assert shown == 2 * len(snippets(page)), "a fence was not understood"


def test_nearly_everything_runs():
    titles = [snippet.title for page in PAGES for snippet in snippets(page) if snippet.title]
    assert len(titles) <= 13, titles  # those that fetch, serve, take hours or need a cluster


def test_make_has_the_targets_that_pages_name():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        name for page in PAGES for name in re.findall(r"^make ([a-z0-9-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"demo", "test", "docs"} <= named <= targets


def test_relative_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
