"""The report of some measurements: plain data, from which one page and all its pictures can be made again.

``report.json`` holds the data, ``report.html`` is the page. Nothing here knows a model or a family: a new family, or a
new measurement, is another curve, bar, row or section.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import write_atomically

FORMAT = "retentive report"
FORMAT_VERSION = 1
JSON_FILE = "report.json"
PAGE_FILE = "report.html"

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of one model, joined by a line.

    Attributes:
        name: The model; a name has one colour in all pictures of a report.
        x: Where the points are, growing.
        y: Their values.
        low: Lower end of each point's error bar; None has none.
        high: Upper end; goes with ``low``.
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
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
    """Values against something that grows.

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
        """Refuse what cannot be drawn."""
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
    """Values side by side.

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
        """Refuse what cannot be drawn."""
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
        rows: Cells as they are to be read.
        caption: What the numbers are.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str

    def __post_init__(self) -> None:
        """Refuse what cannot be shown."""
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
_KINDS: dict[str, type[Section]] = {
    "line_chart": LineChart,
    "bar_chart": BarChart,
    "table": Table,
    "passage": Passage,
}


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


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into a folder, and return the page's path.

    The same report gives the same bytes. The page needs no other file and no network.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from retentive.evaluation.page import render_page

    page = render_page(report)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / JSON_FILE, report_to_json(report).encode("utf-8"))
    write_atomically(folder / PAGE_FILE, page.encode("utf-8"))
    return folder / PAGE_FILE


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote: ``report.json``, or its folder.

    Raises:
        FileNotFoundError: If there is none.
        DamagedFileError: If it is not the JSON of a report.
        MismatchError: If another version of the library wrote it.
    """
    path = path / JSON_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no report {str(path)!r}.")
    try:
        return report_from_json(path.read_text("utf-8"))
    except (DamagedFileError, MismatchError) as error:
        raise type(error)(f"{path}: {error}") from error


def report_to_json(report: Report) -> str:
    """A report as JSON, one key a line."""
    names = {kind: name for name, kind in _KINDS.items()}
    content: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(report)}
    content["sections"] = [{"kind": names[type(section)], **asdict(section)} for section in report.sections]
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_from_json(text: str) -> Report:
    """The report that `report_to_json` wrote.

    Raises:
        DamagedFileError: If it is not the JSON of a report.
        MismatchError: If it has another format version.
    """
    cure = "write the report again"
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise DamagedFileError(f"the report is not JSON ({error}): {cure}.") from error
    if not isinstance(content, dict) or cast("dict[str, Any]", content).pop("format", None) != FORMAT:
        raise DamagedFileError(f"the file is no {FORMAT}: {cure}.")
    version = cast("dict[str, Any]", content).pop("format_version", None)
    if version != FORMAT_VERSION:
        raise MismatchError(f"the report has format version {version!r}, but {FORMAT_VERSION} is read here: {cure}.")
    try:
        sections = tuple(_section(section) for section in content.pop("sections"))
        facts = tuple((name, value) for name, value in content.pop("facts"))
        return Report(sections=sections, facts=facts, **content)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DamagedFileError(f"the report lacks something or has too much ({error}): {cure}.") from error


def _section(content: dict[str, Any]) -> Section:
    kind = _KINDS[content.pop("kind")]
    parts = {"curves": Curve, "bars": Bars}
    values = {
        name: tuple(parts[name](**_tuples(part)) for part in value) if name in parts else value
        for name, value in content.items()
    }
    return kind(**_tuples(values))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of JSON as the tuples that they were."""

    def visit(value: Any) -> Any:
        return tuple(visit(part) for part in cast("list[Any]", value)) if isinstance(value, list) else value

    return {name: visit(value) for name, value in values.items()}


def _check_numbers(name: str, values: Numbers, count: int) -> None:
    if len(values) != count:
        raise ValueError(f"{name} must be {count} numbers, but are {len(values)}.")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, but one is {value}.")
