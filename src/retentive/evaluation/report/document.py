"""A report of measurements as plain data: charts, tables and passages, from which the page is drawn.

Nothing here knows a model or a family: a new family, or a new measurement, is another curve, bar, row or section.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of one model, joined by a line.

    Attributes:
        name: The model; a name has one colour in all pictures of a report.
        x: Positions of the points, in increasing order.
        y: Their values.
        low: Lower end of each point's error bar; None draws none.
        high: Upper end; given together with ``low``.
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not self.x:
            raise ValueError(f"curve {self.name!r} must have at least one point, but has none.")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"curve {self.name!r} must have both low and high, or neither.")
        for field, values in (("x", self.x), ("y", self.y), ("low", self.low), ("high", self.high)):
            if values is not None:
                _check_numbers(f"{field} of curve {self.name!r}", values, len(self.x))
        for before, after in pairwise(self.x):
            if not before < after:
                raise ValueError(f"x of curve {self.name!r} must grow, but {after} follows {before}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """A line chart: values against a quantity.

    Attributes:
        title: Above the picture.
        x_label: Quantity and unit.
        y_label: Quantity and unit.
        curves: One for each model.
        caption: What was counted, over how much, and what error bars mean.
        x_scale: ``linear`` or ``log``.
        y_scale: ``linear`` or ``log``.
        y_unit: ``bytes`` labels the axis in KiB, MiB and so on.
        y_from_zero: Whether a linear axis begins at 0, as it should where ratios are read off it.
    """

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    caption: str
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    y_unit: Literal["plain", "bytes"] = "plain"
    y_from_zero: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not self.curves:
            raise ValueError(f"chart {self.title!r} must have at least one curve, but has none.")
        for scale, values in ((self.x_scale, "x"), (self.y_scale, "y")):
            for curve in self.curves:
                if scale == "log" and min(getattr(curve, values)) <= 0:
                    raise ValueError(
                        f"{values} of curve {curve.name!r} must be above 0 on a logarithmic scale, but one is "
                        f"{min(getattr(curve, values))}."
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars of one model, one in each group of a chart.

    Attributes:
        name: The model.
        heights: One for each group.
        errors: Half-length of each bar's error bar; None where there is none.
    """

    name: str
    heights: Numbers
    errors: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """A bar chart: values of several models side by side.

    Attributes:
        title: Above the picture.
        y_label: Quantity and unit.
        groups: What each group of bars is.
        bars: One for each model.
        caption: What was counted, over how much, and what error bars mean.
    """

    title: str
    y_label: str
    groups: tuple[str, ...]
    bars: tuple[Bars, ...]
    caption: str

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not self.bars or not self.groups:
            raise ValueError(f"chart {self.title!r} must have at least one bar, but has none.")
        for bars in self.bars:
            _check_numbers(f"heights of bars {bars.name!r}", bars.heights, len(self.groups))
            if len(bars.errors) != len(self.groups):
                raise ValueError(
                    f"errors of bars {bars.name!r} must be one for each of {len(self.groups)} groups, but are "
                    f"{len(bars.errors)}."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Results in rows; the first column names the row.

    Attributes:
        title: Above the table.
        columns: Headings, with units.
        rows: Cells as text.
        caption: What the numbers are.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str

    def __post_init__(self) -> None:
        """Validate the fields."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"every row of table {self.title!r} must have {len(self.columns)} cells, but one has {len(row)}: "
                    f"{row}."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Text that a model wrote.

    Attributes:
        title: Above the text.
        prompt: What the model was given; shown apart.
        text: What it went on with.
        caption: Which model, and how it was sampled.
    """

    title: str
    prompt: str
    text: str
    caption: str


Section = LineChart | BarChart | Table | Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page.

    Attributes:
        title: Of the page.
        summary: What was done and what came out, in a few sentences.
        sections: From top to bottom.
        facts: What was run: machine, corpus, sizes, seconds; name and value.
    """

    title: str
    summary: str
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...]


def _check_numbers(name: str, values: Numbers, count: int) -> None:
    if len(values) != count:
        raise ValueError(f"{name} must be {count} numbers, but are {len(values)}.")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, but one is {value}.")
