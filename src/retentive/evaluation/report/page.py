"""The page of a report: one file of HTML with its pictures inside, for a telephone, a screen or paper."""

import base64
from html import escape

from retentive.evaluation.report.document import BarChart, LineChart, Passage, Report, Section, Table
from retentive.evaluation.report.pictures import draw, styles

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: #1c2330; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .6rem; }
h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
.summary { font-size: 1.05rem; max-width: 46rem; margin: 0 0 1.5rem; white-space: pre-line; }
.sections { display: flex; flex-wrap: wrap; gap: 1rem; }
section { flex: 1 1 26rem; min-width: min(100%, 20rem); padding: 1rem; }
section { background: #fff; border: 1px solid #e1e5ea; border-radius: 10px; }
.wide { flex-basis: 100%; }
img { display: block; width: 100%; height: auto; max-width: 36rem; margin: 0 auto; }
.caption { color: #525c6b; font-size: .88rem; margin: .7rem 0 0; max-width: 60rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid #e8ebef; vertical-align: top; }
td { white-space: nowrap; }
th { color: #525c6b; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { color: #525c6b; white-space: nowrap; width: 1%; }
pre { margin: 0; padding: .8rem; background: #f6f7f9; border-radius: 6px; max-height: 36rem; overflow-y: auto; }
pre { font: .84rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { background: #dfeafc; border-radius: 3px; }
details { margin-top: .5rem; font-size: .88rem; }
summary { color: #525c6b; cursor: pointer; }
@media print {
  body { background: #fff; font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  .sections { display: block; }
  section { border: none; padding: 0; margin: 0 0 1.2rem; break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: .3rem .35rem; }
  img { max-width: 13cm; margin: 0; }
  pre { max-height: none; }
  details { display: none; }
}
"""


def render_page(report: Report) -> str:
    """The whole page.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    names = [
        part.name
        for section in report.sections
        if isinstance(section, LineChart | BarChart)
        for part in (section.curves if isinstance(section, LineChart) else section.bars)
    ]
    style = styles(names)
    sections = "\n".join(_section(section, style) for section in report.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(report.title)}</h1>
<p class="summary">{escape(report.summary)}</p>
<div class="sections">
{sections}
<section class="wide"><h2>What was run</h2>{_facts(report)}</section>
</div>
</main>
</body>
</html>
"""


def _section(section: Section, style: dict[str, int]) -> str:
    match section:
        case LineChart():
            body, width = _picture(section, style) + _numbers(_points_of_curves(section)), ""
        case BarChart():
            body, width = _picture(section, style) + _numbers(_heights(section)), ""
        case Table():
            body, width = _table(section.columns, section.rows), ' class="wide"'
        case Passage():
            body, width = _passage(section), ' class="wide"'
    caption = f'<p class="caption">{escape(section.caption)}</p>' if section.caption else ""
    return f"<section{width}><h2>{escape(section.title)}</h2>{body}{caption}</section>"


def _picture(chart: LineChart | BarChart, style: dict[str, int]) -> str:
    content = base64.b64encode(draw(chart, style)).decode("ascii")
    parts = chart.curves if isinstance(chart, LineChart) else chart.bars
    text = f"{chart.title}: {chart.y_label} of {', '.join(part.name for part in parts)}"
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{content}">'


def _numbers(table: tuple[tuple[str, ...], list[tuple[str, ...]]]) -> str:
    """What the picture shows, for readers who cannot see it or want to copy it."""
    columns, rows = table
    return f"<details><summary>Numbers</summary>{_table(columns, tuple(rows))}</details>"


def _points_of_curves(chart: LineChart) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    names = [curve.name for curve in chart.curves]
    places = sorted({x for curve in chart.curves for x in curve.x})
    found = [dict(zip(curve.x, curve.y, strict=True)) for curve in chart.curves]
    rows = [(_shown(x), *(_shown(points[x]) if x in points else "" for points in found)) for x in places]
    return (chart.x_label, *names), rows


def _heights(chart: BarChart) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    for index, group in enumerate(chart.groups):
        cells: list[str] = []
        for bars in chart.bars:
            error = bars.errors[index]
            cells.append(_shown(bars.heights[index]) + ("" if error is None else f" ± {_shown(error)}"))
        rows.append((group, *cells))
    return ("", *(bars.name for bars in chart.bars)), rows


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.5g}"


def _table(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _passage(passage: Passage) -> str:
    return f'<pre><span class="prompt">{escape(passage.prompt)}</span>{escape(passage.text)}</pre>'


def _facts(report: Report) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in report.facts)
    return f'<table class="facts"><tbody>{rows}</tbody></table>'
