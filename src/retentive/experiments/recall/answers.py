"""Right answers of models: rows that count them, and how tables and pictures show them."""

from collections.abc import Sequence
from dataclasses import dataclass

from retentive.evaluation.measures.uncertainty import wilson_interval
from retentive.evaluation.report.document import Curve, LineChart


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Right answers of one model under one condition.

    Attributes:
        what: The condition, such as `MEMORY`.
        length: Bytes of each text.
        depth: Where the facts stood; None for all depths.
        hits: Right answers.
        trials: Questions.
    """

    what: str
    length: int
    depth: float | None
    hits: int
    trials: int

    @property
    def share(self) -> float:
        """Share of questions that were answered right."""
        return self.hits / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of the share, at 95 percent."""
        return wilson_interval(self.hits, self.trials)


def cell(row: Row) -> str:
    """Right answers and their interval, for a table."""
    low, high = row.interval
    return f"{row.hits}/{row.trials} ({low:.2f} to {high:.2f})"


def table_line(*cells: object) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def table_header(*names: str) -> str:
    """The first two lines of a table in Markdown."""
    return table_line(*names) + "\n" + table_line(*("---" for _ in names))


def curve_of(name: str, rows: Sequence[Row]) -> Curve:
    """Shares of right answers against the length, with their intervals."""
    return Curve(
        name=name,
        x=tuple(float(row.length) for row in rows),
        y=tuple(row.share for row in rows),
        low=tuple(row.interval[0] for row in rows),
        high=tuple(row.interval[1] for row in rows),
    )


def chart_of_answers(curves: Sequence[Curve], *, title: str, x_label: str, caption: str) -> LineChart:
    """Right answers against the length, which is on a logarithmic scale."""
    return LineChart(
        title=title,
        x_label=x_label,
        y_label="right answers",
        curves=tuple(curves),
        x_scale="log",
        y_from_zero=True,
        caption=caption,
    )
