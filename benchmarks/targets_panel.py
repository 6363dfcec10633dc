"""The panel of a picture that shows how far each target is reached."""

import textwrap

from matplotlib.axes import Axes

from benchmarks.retnet_report import Results

MET_COLOUR, MISSED_COLOUR, TARGET_COLOUR = "#0b6e4f", "#d9a441", "#b00020"
LONGEST = 3.0
"""Of a bar; more than this is not told apart."""


def draw_targets(axes: Axes, results: Results) -> None:
    """A bar for each row that has a target, as a share of it: right of the line it is met."""
    rows = [row for row in results.rows if row.target is not None][::-1]
    for height, row in enumerate(rows):
        assert row.target is not None
        share = row.ratio.median / row.target if row.limit == "least" else row.target / max(row.ratio.median, 0.01)
        share = min(share, LONGEST)
        axes.barh(height, share, color=MET_COLOUR if row.met else MISSED_COLOUR, height=0.65)
        sign = "≥" if row.limit == "least" else "≤"
        told = f"{row.ratio.median:.2f}x ({sign} {row.target:g}x)"
        axes.text(share + 0.05, height, told, va="center", fontsize=8)
    axes.axvline(1, color=TARGET_COLOUR, linestyle="--")
    axes.set_xlim(0, LONGEST + 1.4)
    axes.set_yticks(range(len(rows)), [textwrap.fill(row.what, 26) for row in rows], fontsize=7)
    axes.set_xlabel(f"reached / target, at most {LONGEST:g}")
    axes.set_title("Targets (green: met)")
