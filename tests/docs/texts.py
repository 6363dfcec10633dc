"""Texts as the pages name them, cut short."""

from pathlib import Path

from retentive.data.splitting import split_of

BEGIN = 5000
"""Characters of each text: enough to learn and find something, and little to compute."""


def shorten(folder: Path) -> None:
    """Keep the begin of every text, and see to it that one is held out from training: of a few texts none might be."""
    files = sorted(folder.iterdir())
    for file in files:
        text = file.read_text("utf-8")
        file.write_text(_held_out(text) if file == files[-1] else text[:BEGIN], "utf-8")


def _held_out(text: str) -> str:
    begins = (text[:end] for end in range(BEGIN, 0, -1))
    return next(begin for begin in begins if split_of(begin.encode(), heldout_fraction=0.05, seed=0) == "heldout")
