"""Notes of which folders the demo made, so that it never removes any other."""

import shutil
from pathlib import Path
from typing import Any

from retentive.files import explain_odd_content, read_json, write_json

NOTES = "demo.json"
"""File that says which folders beside it a demo made, and how many steps its models are trained for."""


def read_notes(output: Path) -> dict[str, Any]:
    """The notes of an earlier demo in ``output``; empty ones without."""
    path, cure = output / NOTES, "delete the demo's folder and start it again"
    if not path.exists():
        return {"made": []}
    notes = read_json(path, cure=cure)
    with explain_odd_content(path, cure=cure):
        return {**notes, "made": [str(name) for name in notes["made"]]}


def write_notes(output: Path, notes: dict[str, Any]) -> None:
    """Replace the notes."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / NOTES, notes)


def claim(output: Path, folder: Path) -> None:
    """Note that the demo makes a folder, unless the folder is there already."""
    notes = read_notes(output)
    if not folder.exists() and folder.name not in notes["made"]:
        write_notes(output, {**notes, "made": [*notes["made"], folder.name]})


def remove_own(output: Path, folder: Path, why: str) -> bool:
    """Remove a folder that an earlier demo made; return False where no demo made it."""
    if folder.name not in read_notes(output)["made"]:
        return False
    print(f"  {folder} {why}: it is made anew")
    shutil.rmtree(folder)
    return True
