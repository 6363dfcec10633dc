"""Documentation of packages: text that a model which was trained before they were first released cannot have seen."""

import ast
from pathlib import Path
from shutil import rmtree

from retentive.experiments.retrieval_models.corpus import fetched_newest

TEXT = (".md", ".rst", ".txt")
LEAST_BYTES = 400
"""Shorter documents say nothing: lists of names, and modules with a line each."""


def documentation_of(packages: tuple[str, ...], folder: Path) -> Path:
    """Fetch the newest release of packages, and write the documentation that their wheels hold, one file a document.

    That is text files, the description in the metadata (most often a README), and for each module its documentation
    strings in order. Nothing of a package is run.

    Args:
        packages: Their names.
        folder: Where they are kept; made once.

    Returns:
        The folder of text; ``LICENCES.md`` beside it names each package's licence as its metadata does.
    """
    text = folder / "text"
    if text.exists():
        return text
    unfinished = folder / ".text"
    rmtree(unfinished, ignore_errors=True)
    licences = ["Text in this folder is of these packages, under their licences:", ""]
    for package in packages:
        source = fetched_newest(package, folder / "wheels")
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            name = path.relative_to(source)
            content = _content(path)
            if content is not None and len(content.encode()) >= LEAST_BYTES:
                target = unfinished / package / name.with_name(f"{name.name}.txt")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content, encoding="utf-8")
        licences.append(f"- {package}: {_licence(source)}")
    (folder / "LICENCES.md").write_text("\n".join(licences) + "\n", encoding="utf-8")
    unfinished.rename(text)
    return text


def _content(path: Path) -> str | None:
    """The documentation in a file; None where it has none that can be read."""
    try:
        if path.name == "METADATA":
            return path.read_text(encoding="utf-8").partition("\n\n")[2]
        if ".dist-info" in str(path) or "license" in path.name.lower():
            return None
        if path.suffix in TEXT:
            return path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            return _docstrings(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return None
    return None


def _docstrings(source: str) -> str:
    """The documentation strings of a module, each after the name of what it explains."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                name = "" if isinstance(node, ast.Module) else f"{node.name}\n"
                found.append(f"{name}{text}\n")
    return "\n".join(found)


def _licence(source: Path) -> str:
    for path in source.glob("*.dist-info/METADATA"):
        lines = path.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        for begin in ("License-Expression:", "License:", "Classifier: License ::"):
            for line in lines:
                if line.startswith(begin):
                    return line.removeprefix(begin).strip()
    return "not told"
