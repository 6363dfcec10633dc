"""A report as data and as a page."""

import base64
import dataclasses
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from retentive.errors import DamagedFileError, MismatchError
from retentive.evaluation.report import pictures
from retentive.evaluation.report.document import BarChart, Bars, Curve, LineChart, Passage, Report, Table
from retentive.evaluation.report.files import read_report, report_from_json, report_to_json, write_report
from retentive.evaluation.report.pictures import draw, short_bytes, short_number, styles

LINES = LineChart(
    title="Loss <over> training",
    x_label="tokens",
    y_label="nats",
    curves=(
        Curve(name="RetNet", x=(1.0, 10.0, 100.0), y=(3.0, 2.0, 1.5), low=(2.9, 1.9, 1.4), high=(3.2, 2.2, 1.6)),
        Curve(name="Transformer", x=(1.0, 10.0), y=(3.5, 2.5)),
    ),
    caption="Over 3 documents & more.",
    x_scale="log",
)
BARS = BarChart(
    title="Bits per byte",
    y_label="bits per byte",
    groups=("windows", "one pass"),
    bars=(
        Bars(name="RetNet", heights=(1.5, 1.25), errors=(0.1, None)),
        Bars(name="Transformer", heights=(1.75, 2.0), errors=(0.2, 0.3)),
    ),
    caption="Lower is better.",
)
MANY = Curve(name="many", x=tuple(map(float, range(1, 200))), y=tuple(map(float, range(1, 200))))
REPORT = Report(
    title="A <small> report",
    summary="Two models & their numbers.",
    sections=(
        LINES,
        BARS,
        Table(
            title="Results", columns=("model", "bits"), rows=(("RetNet", "1.500 ± 0.1"),), caption="Lower is better."
        ),
        Passage(title="Text", prompt="def <f>", text="(x): return x & 1\n日本語", caption="RetNet, seed 1."),
    ),
    facts=(("machine", "a <CPU>"), ("seconds", "12")),
)


class Page(HTMLParser):
    """Everything of a page that a reader sees or that a browser would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(REPORT, tmp_path_factory.mktemp("report")).read_text("utf-8")


def test_the_page_says_everything_and_escapes_it(page: str):
    text = Page(page).text
    for section in REPORT.sections:
        assert section.title in text
        assert section.caption in text
    for words in ("A <small> report", "Two models & their numbers.", "1.500 ± 0.1", "machine", "a <CPU>", "12"):
        assert words in text
    assert "def <f>(x): return x & 1\n日本語" in text
    assert "<small>" not in page
    assert "<CPU>" not in page


def test_the_page_needs_nothing_from_outside(page: str):
    assert "://" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    for tag, attributes in Page(page).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "srcset", "data"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_fits_a_telephone_and_paper(page: str):
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in Page(page).tags
    assert "@media print" in page


def test_numbers_of_the_pictures_are_in_the_page_as_text(page: str):
    text = Page(page).text
    for number in ("1.25", "1.75 ± 0.2", "2.5", "100"):
        assert number in text


def pixels(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png), format="png")[..., :3]


def has_colour(picture: np.ndarray, colour: str) -> bool:
    wanted = np.asarray([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return bool((np.abs(picture - wanted).max(-1) < 0.01).sum() > 100)


def test_pictures_show_every_model_in_its_colour(page: str):
    sources = [attributes["src"] for tag, attributes in Page(page).tags if tag == "img"]
    assert len(sources) == 2
    for source in sources:
        picture = pixels(base64.b64decode(source.removeprefix("data:image/png;base64,")))
        assert picture.shape[1] >= 1000
        assert has_colour(picture, "#0072B2")
        assert has_colour(picture, "#D55E00")
        assert not has_colour(picture, "#009E73")
    assert all(attributes["alt"] for tag, attributes in Page(page).tags if tag == "img")


@pytest.mark.parametrize(
    "chart",
    [
        LINES,
        dataclasses.replace(LINES, x_scale="linear", y_scale="log"),
        dataclasses.replace(LINES, y_unit="bytes", y_scale="log"),
        dataclasses.replace(LINES, y_unit="bytes", y_from_zero=True),
        dataclasses.replace(LINES, curves=(Curve(name="RetNet", x=(5.0,), y=(2e6,)),)),
        dataclasses.replace(LINES, curves=(MANY,)),
        BARS,
        dataclasses.replace(BARS, groups=("one",), bars=(Bars(name="RetNet", heights=(4.0,), errors=(None,)),)),
    ],
)
def test_every_kind_of_chart_is_drawn_and_always_the_same(chart: LineChart | BarChart):
    names = [part.name for part in (chart.curves if isinstance(chart, LineChart) else chart.bars)]
    first = draw(chart, styles(names))
    assert has_colour(pixels(first), "#0072B2")
    assert draw(chart, styles(names)) == first


def test_a_name_has_one_style_and_names_differ():
    assert styles(["b", "a", "b", "c"]) == {"b": 0, "a": 1, "c": 2}


def test_what_was_written_is_read_back_and_gives_the_same_page(tmp_path: Path, page: str):
    path = write_report(REPORT, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    again = read_report(path.parent)
    assert again == read_report(path.parent / "report.json") == REPORT
    assert write_report(again, tmp_path / "again").read_text("utf-8") == page


def test_damaged_and_foreign_reports_are_refused(tmp_path: Path):
    whole = report_to_json(REPORT)
    with pytest.raises(FileNotFoundError, match="there is no report"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text(whole[:100])
    with pytest.raises(DamagedFileError, match=r"report.json: the report is not JSON .*: write the report again"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_bytes(b'{"title": "\xe8"}')
    with pytest.raises(DamagedFileError, match=r"report\.json is not UTF-8 \(at byte 11\): write the report again"):
        read_report(tmp_path)
    with pytest.raises(DamagedFileError, match="is no retentive report"):
        report_from_json('{"format": "something"}')
    with pytest.raises(MismatchError, match="format version 2, but 1 is read here"):
        report_from_json(whole.replace('"format_version": 1', '"format_version": 2'))
    for old, new in (('"summary"', '"sumary"'), ('"kind": "table"', '"kind": "chair"'), ('"y_label": "nats",', "")):
        with pytest.raises(DamagedFileError, match="lacks something or has too much"):
            report_from_json(whole.replace(old, new))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="curve 'm' must have at least one point, but has none"):
        Curve(name="m", x=(), y=())
    with pytest.raises(ValueError, match="y of curve 'm' must be 2 numbers, but are 1"):
        Curve(name="m", x=(1.0, 2.0), y=(1.0,))
    with pytest.raises(ValueError, match="y of curve 'm' must be finite, but one is nan"):
        Curve(name="m", x=(1.0,), y=(float("nan"),))
    with pytest.raises(ValueError, match=r"x of curve 'm' must grow, but 1\.0 follows 1\.0"):
        Curve(name="m", x=(1.0, 1.0), y=(1.0, 2.0))
    with pytest.raises(ValueError, match="curve 'm' must have both low and high, or neither"):
        Curve(name="m", x=(1.0,), y=(1.0,), low=(0.5,))
    with pytest.raises(ValueError, match="chart 'Loss' must have at least one curve, but has none"):
        dataclasses.replace(LINES, title="Loss", curves=())
    with pytest.raises(ValueError, match=r"x of curve 'm' must be above 0 on a logarithmic scale, but one is 0\.0"):
        dataclasses.replace(LINES, curves=(Curve(name="m", x=(0.0, 1.0), y=(1.0, 1.0)),))
    with pytest.raises(ValueError, match="heights of bars 'm' must be 2 numbers, but are 1"):
        dataclasses.replace(BARS, bars=(Bars(name="m", heights=(1.0,), errors=(None,)),))
    with pytest.raises(ValueError, match="errors of bars 'm' must be one for each of 2 groups, but are 1"):
        dataclasses.replace(BARS, bars=(Bars(name="m", heights=(1.0, 2.0), errors=(None,)),))
    with pytest.raises(ValueError, match="chart 'Bits per byte' must have at least one bar, but has none"):
        dataclasses.replace(BARS, bars=())
    with pytest.raises(ValueError, match="every row of table 'T' must have 2 cells, but one has 1"):
        Table(title="T", columns=("a", "b"), rows=(("x",),), caption="")


@pytest.mark.parametrize("largest", [9_000, 90_000, 800_000, 1_100_000, 7_300_000])
def test_numbers_below_a_picture_do_not_run_into_one_another(largest: int):
    curve = Curve(name="m", x=tuple(float(largest * part / 20) for part in range(1, 21)), y=(1.0,) * 20)
    chart = LineChart(title="T", x_label="tokens read", y_label="loss", curves=(curve,), caption="")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **pictures._STYLE}):
        figure = Figure(figsize=pictures._INCHES, layout="constrained")
        canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
        pictures._draw_lines(axes, chart, {"m": 0})
        canvas.draw()
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
        boxes = [tick.get_window_extent() for tick in shown]
    assert len(boxes) >= 3
    assert all(one.x1 + 20 < other.x0 for one, other in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (3, "3"),
        (512, "512"),
        (2048, "2,048"),
        (250_000, "250k"),
        (1.5e6, "1.5M"),
        (-20.4, "-20"),
    ],
)
def test_numbers_are_short(value: float, shown: str):
    assert short_number(float(value)) == shown


@pytest.mark.parametrize(
    ("value", "largest", "shown"),
    [(0, 2e5, "0"), (60_000, 2e5, "60k"), (12_500, 2e5, "12.5k"), (600_000, 2.4e6, "0.6M"), (60_000, 9e4, "60,000")],
)
def test_numbers_of_one_axis_share_a_unit(value: float, largest: float, shown: str):
    assert short_number(float(value), largest) == shown


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["RetNet", "Transformer", "RMT", "RETRO"], 4),
        (["memory", "memory zeroed", "memory of another text", "no memory"], 2),
        (["a name that fills more than half of the width", "another one that is as long as that"], 1),
        (["one"], 1),
    ],
)
def test_a_legend_has_as_many_columns_as_fit(names: list[str], columns: int, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(pictures, "_png", lambda figure: drawn.append(figure) or b"")
    curves = tuple(Curve(name=name, x=(1.0, 2.0), y=(1.0, 2.0)) for name in names)
    draw(LineChart(title="t", x_label="x", y_label="y", curves=curves, caption=""), styles(names))
    figure = drawn[0]
    figure.draw_without_rendering()
    legend = figure.legends[0]
    assert len({entry.get_window_extent().x0 for entry in legend.get_texts()}) == columns
    if columns > 1:
        assert legend.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("value", "shown"), [(512, "512 B"), (65536, "64 KiB"), (1.5 * 2**20, "1.5 MiB"), (3 * 2**40, "3 TiB")]
)
def test_sizes_are_short(value: float, shown: str):
    assert short_bytes(float(value)) == shown
