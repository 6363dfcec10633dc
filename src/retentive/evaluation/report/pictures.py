"""The pictures of a report, drawn with matplotlib."""

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from retentive.evaluation.report.document import BarChart, Curve, LineChart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by most colour-blind readers; black and yellow left out.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", "-", "--")
# Small figures with large letters: on a telephone a page is 9 cm wide.
_INCHES = (5.4, 3.7)
_DOTS_PER_INCH = 200
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "legend.frameon": False,
}
_MANY_POINTS = 20
_LEGEND_LETTERS = 46
"""Letters that fit side by side in a legend, where a line and its gap take as much as four."""


def styles(names: list[str]) -> dict[str, int]:
    """The number of each model's colour, marker and dash, by first appearance."""
    return {name: number % len(_COLOURS) for number, name in enumerate(dict.fromkeys(names))}


def require_matplotlib() -> None:
    """Raise where matplotlib is missing: before long work, whose pictures could not be drawn.

    Raises:
        ImportError: With the command that installs it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the pictures of a report need matplotlib: pip install 'retentive[train]'") from error
    assert matplotlib


def draw(chart: LineChart | BarChart, style: Mapping[str, int]) -> bytes:
    """A chart as a PNG; the same chart gives the same bytes.

    Args:
        chart: What to draw.
        style: Number of each model's style, as `styles` gives it.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
        figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        if isinstance(chart, LineChart):
            _draw_lines(axes, chart, style)
        else:
            _draw_bars(axes, chart, style)
        # Above the picture, where it covers no point.
        names = axes.get_legend_handles_labels()[1]
        figure.legend(loc="outside upper left", ncols=_legend_columns(names), columnspacing=1.2, handlelength=1.8)
        return _png(figure)


def _legend_columns(names: list[str]) -> int:
    """The most columns in which the names of the legend fit side by side."""
    for columns in range(len(names), 1, -1):
        # Matplotlib fills columns from above, the first ones with a name more, each as wide as its longest name.
        full, more = divmod(len(names), columns)
        ends = [full * (column + 1) + min(column + 1, more) for column in range(columns)]
        widest = [max(map(len, names[begin:end])) for begin, end in pairwise([0, *ends])]
        if sum(widest) + 4 * len(widest) <= _LEGEND_LETTERS:
            return columns
    return 1


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_lines(axes: "Axes", chart: LineChart, style: Mapping[str, int]) -> None:
    for curve in chart.curves:
        number = style[curve.name]
        colour = _COLOURS[number]
        marker = _MARKERS[number] if len(curve.x) <= _MANY_POINTS else None
        axes.plot(curve.x, curve.y, _DASHES[number], color=colour, marker=marker, label=curve.name)
        if curve.low is not None and curve.high is not None:
            if len(curve.x) > _MANY_POINTS:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
            else:
                axes.errorbar(curve.x, curve.y, yerr=_lengths(curve), fmt="none", ecolor=colour, capsize=3, lw=1.2)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.set_xscale(chart.x_scale)
    axes.set_yscale(chart.y_scale)
    if chart.y_from_zero and chart.y_scale == "linear":
        highest = max(value for curve in chart.curves for value in (*curve.y, *(curve.high or ())))
        axes.set_ylim(0, 1.08 * highest or None)  # room for whole markers, also where all points are of one height
    _label_ticks(axes, chart)


def _lengths(curve: Curve) -> list[list[float]]:
    assert curve.low is not None
    assert curve.high is not None
    below = [max(0.0, y - low) for y, low in zip(curve.y, curve.low, strict=True)]
    above = [max(0.0, high - y) for y, high in zip(curve.y, curve.high, strict=True)]
    return [below, above]


def _label_ticks(axes: "Axes", chart: LineChart) -> None:
    """Plain numbers instead of powers of ten, and bytes by their own units."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if chart.x_scale == "log":
        places = sorted({x for curve in chart.curves for x in curve.x})
        if len(places) <= 12:
            axes.xaxis.set_major_locator(FixedLocator(places[:: -(-len(places) // 7)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))  # so that long numbers do not run into one another
        largest = max(x for curve in chart.curves for x in curve.x)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value, largest)))
    if chart.y_unit == "bytes":
        if chart.y_scale == "log":
            axes.yaxis.set_major_locator(LogLocator(base=4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_bytes(value)))
    elif chart.y_scale == "log" or axes.get_ylim()[1] >= 1000:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    if chart.y_scale == "log":
        axes.yaxis.set_minor_locator(NullLocator())


def _draw_bars(axes: "Axes", chart: BarChart, style: Mapping[str, int]) -> None:
    width = 0.8 / len(chart.bars)
    for place, bars in enumerate(chart.bars):
        x = [group - 0.4 + width * (place + 0.5) for group in range(len(chart.groups))]
        colour = _COLOURS[style[bars.name]]
        axes.bar(x, bars.heights, width * 0.92, color=colour, label=bars.name)
        for middle, height, error in zip(x, bars.heights, bars.errors, strict=True):
            top = height + (error or 0.0)
            if error is not None:
                axes.errorbar([middle], [height], yerr=[error], fmt="none", ecolor="#222222", capsize=4, lw=1.2)
            axes.annotate(f"{height:.4g}", (middle, top), (0, 3), textcoords="offset points", ha="center", fontsize=10)
    axes.set_xticks(range(len(chart.groups)), chart.groups)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(chart.y_label)
    axes.margins(y=0.1)


def short_number(value: float, largest: float | None = None) -> str:
    """A number as an axis shows it: 512, 2,048, 250k or 1.5M.

    Args:
        value: The number.
        largest: The largest number of the axis, whose unit all of its numbers share; None stands for the number itself.
    """
    size = abs(value if largest is None else largest)
    if value and size >= 999_500:
        return f"{value / 1e6:.3g}M"
    if value and size >= 1e5:
        return f"{value / 1e3:.0f}k" if value % 1000 == 0 or largest is None else f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.3g}"


def short_bytes(value: float) -> str:
    """A size in the largest unit that it fills: 512 B, 64 KiB, 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"
