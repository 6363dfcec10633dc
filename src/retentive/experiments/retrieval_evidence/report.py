"""The table of all ways, by overlap, with intervals; and its page."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from retentive.config_types import check_kind
from retentive.evaluation.measures.machine import describe_machine
from retentive.evaluation.measures.uncertainty import bootstrap_interval
from retentive.evaluation.report.document import Report, Table
from retentive.evaluation.report.files import write_report
from retentive.evaluation.report.pictures import require_matplotlib
from retentive.experiments.retrieval_evidence.config import RetrievalEvidenceConfig
from retentive.experiments.retrieval_evidence.evidence import NONE, PLAIN, RIGHT, SHUFFLED, Condition, Evidence, gather
from retentive.files import write_atomically
from retentive.files.targets import check_folder_target

SLICES = (("all chunks", 0.0, 1.0), ("overlap at most 12.5%", 0.0, 0.125), ("overlap above 12.5%", 0.126, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way with one kind of neighbours, over some chunks; means over seeds.

    Attributes:
        way: How the datastore is used.
        reads: What is read.
        over: Which chunks.
        chunks: How many.
        bits: Bits per byte.
        by_seed: What each seed saves against the same model without neighbours.
        saved: Their mean.
        saved_interval: 95 percent, over documents.
        over_shuffled: What right neighbours save against those of other chunks; None for all but the right ones.
        over_shuffled_interval: 95 percent.
        seconds_made: Processor or training seconds before anything is read; mean over seeds.
        seconds_read: Processor seconds for all held-out text; mean over seeds.
    """

    way: str
    reads: str
    over: str
    chunks: int
    bits: float
    by_seed: tuple[float, ...]
    saved: float
    saved_interval: tuple[float, float]
    over_shuffled: float | None
    over_shuffled_interval: tuple[float, float] | None
    seconds_made: float
    seconds_read: float


def rows_of(evidence: Evidence, resamples: int) -> list[Row]:
    """Every condition over all chunks, over those of little overlap, and over the others."""
    rows: list[Row] = []
    seeds = list(evidence.measured)
    for over, least, most in SLICES:
        chosen = (evidence.overlap >= least) & (evidence.overlap <= most)
        if not evidence.measured[seeds[0]][Condition(PLAIN, NONE)].scores.num_bytes[chosen].sum():
            continue
        rows += [_row(evidence, condition, over, chosen, resamples) for condition in evidence.measured[seeds[0]]]
    return rows


def _row(
    evidence: Evidence, condition: Condition, over: str, chosen: Bool[np.ndarray, "chunks"], resamples: int
) -> Row:
    seeds = list(evidence.measured)
    scores = [evidence.measured[seed][condition].scores for seed in seeds]
    way = condition.way if Condition(condition.way, NONE) in evidence.measured[seeds[0]] else PLAIN
    base = Condition(PLAIN, NONE) if condition.reads == NONE else Condition(way, NONE)
    saved = _saved(evidence, condition, base)
    sizes = np.where(chosen, scores[0].num_bytes, 0)
    shuffled = Condition(condition.way, SHUFFLED)
    less = None
    if condition.reads == RIGHT:
        less = np.mean(_saved(evidence, condition, shuffled), axis=0)
    total = sizes.sum()
    return Row(
        way=condition.way,
        reads=condition.reads,
        over=over,
        chunks=int(chosen.sum()),
        bits=float(np.mean([each.nats[chosen].sum() for each in scores]) / np.log(2) / total),
        by_seed=tuple(float(each[chosen].sum() / total) for each in saved),
        saved=float(np.mean([each[chosen].sum() for each in saved]) / total),
        saved_interval=_interval(evidence, np.mean(saved, axis=0), sizes, resamples),
        over_shuffled=None if less is None else float(less[chosen].sum() / total),
        over_shuffled_interval=None if less is None else _interval(evidence, less, sizes, resamples),
        seconds_made=float(np.mean([evidence.made[seed].get(condition.way, 0.0) for seed in seeds])),
        seconds_read=float(np.mean([evidence.measured[seed][condition].seconds for seed in seeds])),
    )


def _saved(evidence: Evidence, condition: Condition, base: Condition) -> list[np.ndarray]:
    """Bits that each chunk takes less than under another condition, of each seed."""
    return [
        (found[base].scores.nats - found[condition].scores.nats) / np.log(2) for found in evidence.measured.values()
    ]


def _interval(evidence: Evidence, bits: np.ndarray, sizes: np.ndarray, resamples: int) -> tuple[float, float]:
    """Over documents: the chunks of one are alike."""
    counts = evidence.chunks.counts
    owner = np.repeat(np.arange(len(counts)), counts)
    chosen = sizes > 0
    totals = np.bincount(owner, weights=np.where(chosen, bits, 0.0), minlength=len(counts))
    of_document = np.bincount(owner, weights=sizes, minlength=len(counts)).astype(np.int64)
    return bootstrap_interval(totals, of_document, resamples=resamples)


def table(evidence: Evidence, rows: list[Row], resamples: int) -> Table:
    """The rows as a table of the report."""
    cells = [
        (
            row.way,
            row.reads,
            f"{row.over} ({row.chunks:,})",
            f"{row.bits:.4f}",
            "" if row.way == PLAIN else _with_interval(row.saved, row.saved_interval),
            "" if row.over_shuffled is None else _with_interval(row.over_shuffled, row.over_shuffled_interval),
            f"{row.seconds_made:,.0f} + {row.seconds_read:,.0f}",
        )
        for row in rows
    ]
    return Table(
        title="Ways to use one datastore: bits per byte of held-out text",
        columns=(
            "way",
            "reads",
            "over (chunks)",
            "bits per byte",
            "saved against none",
            "right less shuffled",
            "seconds to make + to read",
        ),
        rows=tuple(cells),
        caption=(
            f"Means over {len(evidence.measured)} models; {evidence.chunks.documents.coverage}; in brackets 95% over "
            f"{resamples:,} draws of documents. Saved: against the same model without neighbours (a model that was "
            f"trained longer: against the model alone). Chunks of {evidence.chunks.chunk_size} tokens; overlap is the "
            "longest run of tokens that a chunk shares with one of its ten nearest training chunks and what follows "
            "them, by its length. Own text, shifted, is the copying control. " + " ".join(evidence.notes)
        ),
    )


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    assert interval is not None
    return f"{value:+.4f} [{interval[0]:+.4f}, {interval[1]:+.4f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceReport:
    """What came out, and the files that hold it."""

    table: Table
    page: Path
    numbers: Path

    def lines(self) -> list[str]:
        """The table as Markdown, its caption, and where it is written."""
        rows = (self.table.columns, tuple("---" for _ in self.table.columns), *self.table.rows)
        return [
            *(f"| {' | '.join(cells)} |" for cells in rows),
            f"\n{self.table.caption}\nwritten to {self.page} and {self.numbers}",
        ]


def run_retrieval_evidence(config: RetrievalEvidenceConfig) -> EvidenceReport:
    """Gather the evidence, and write a table and a page."""
    check_kind("config", config, RetrievalEvidenceConfig)
    require_matplotlib()
    check_folder_target("output", config.output)
    evidence = gather(config)
    rows = rows_of(evidence, config.resamples)
    found = table(evidence, rows, config.resamples)
    facts = {**describe_machine(torch.device("cpu")), "text": str(evidence.chunks.documents.coverage)}
    report = Report(title="Does retrieval help?", summary=found.caption, sections=(found,), facts=tuple(facts.items()))
    page = write_report(report, config.output)
    numbers = config.output / "retrieval_evidence.json"
    content = {"facts": facts, "notes": evidence.notes, "rows": [asdict(row) for row in rows]}
    write_atomically(numbers, (json.dumps(content, indent=1) + "\n").encode())
    return EvidenceReport(table=found, page=page, numbers=numbers)
