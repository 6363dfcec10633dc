"""A report on disk: ``report.json`` holds the data, ``report.html`` is the page."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from retentive.errors import DamagedFileError, MismatchError
from retentive.evaluation.report.document import BarChart, Bars, Curve, LineChart, Passage, Report, Section, Table
from retentive.evaluation.report.page import render_page
from retentive.files import write_atomically

FORMAT = "retentive report"
FORMAT_VERSION = 1
JSON_FILE = "report.json"
PAGE_FILE = "report.html"

_KINDS: dict[str, type[Section]] = {"line_chart": LineChart, "bar_chart": BarChart, "table": Table, "passage": Passage}


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into a folder, and return the page's path.

    The same report gives the same bytes. The page needs no other file and no network.

    Raises:
        ImportError: If matplotlib is not installed.
    """
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
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is not UTF-8 (at byte {error.start:,}): write the report again.") from error
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
