"""What the pictures of benchmarks share: the panel of targets, and how a picture is saved."""

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.racing.results import Row

MET_COLOUR, MISSED_COLOUR, TARGET_COLOUR = "#0b6e4f", "#d9a441", "#b00020"
LONGEST = 3.0
"""Of a bar; more than this is not told apart."""


def times(value: float) -> str:
    """A ratio, as in 1.50x."""
    return f"{value:.2f}x"


def draw_targets(axes: Axes, rows: Sequence[Row], number: Callable[[float], str] = times) -> None:
    """A bar for each row that has a target, as a share of it: right of the line it is met.

    Args:
        axes: The panel.
        rows: The table.
        number: How what was reached is written.
    """
    rows = [row for row in rows if row.target is not None][::-1]
    for height, row in enumerate(rows):
        assert row.target is not None
        share = row.ratio.median / row.target if row.limit == "least" else row.target / max(row.ratio.median, 0.01)
        share = min(share, LONGEST)
        axes.barh(height, share, color=MET_COLOUR if row.met else MISSED_COLOUR, height=0.65)
        sign = "≥" if row.limit == "least" else "≤"
        told = f"{number(row.ratio.median)} ({sign} {row.target:,g})"
        axes.text(max(share, 1) + 0.05, height, told, va="center", fontsize=8)
    axes.axvline(1, color=TARGET_COLOUR, linestyle="--")
    axes.set_xlim(0, LONGEST + 1.4)
    works = Counter(row.what for row in rows)
    names = [row.what if works[row.what] == 1 else f"{row.what}, over {row.against}" for row in rows]
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, 40) for name in names], fontsize=7)
    axes.set_xlabel(f"reached / target, at most {LONGEST:g}")
    axes.set_title("Targets (green: met)")


def finish(figure: Figure, path: Path, words: str) -> None:
    """Write a picture under its words, and free it."""
    figure.suptitle(words, fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
