"""The comparison of RETRO with and without neighbours and with a Transformer: a table, a picture, and examples."""

from dataclasses import dataclass

import numpy as np

from retentive.evaluation.measures.overlap import bits_per_byte_up_to
from retentive.evaluation.report.document import Curve, LineChart, Passage, Table
from retentive.experiments.retro_evidence.evidence import (
    DENSE_PART,
    LEXICAL_PART,
    OFF,
    ON,
    SHUFFLED,
    TRANSFORMER,
    Evidence,
)

SHARES = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Overlaps up to which chunks are counted; 12.5% is at most eight tokens of 64 in one piece."""

CONDITIONS = (TRANSFORMER, OFF, SHUFFLED, ON, LEXICAL_PART, DENSE_PART)

LABELS = {ON: "right ones", SHUFFLED: "wrong ones", LEXICAL_PART: "words, part", DENSE_PART: "dense, part"}
"""What curves are called. The Transformer, whose weights are others, is in the table alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Bits per byte of one condition, over all seeds.

    Attributes:
        condition: Which neighbours were read.
        over: Which chunks: a share for those of at most this overlap, or "above" and a share.
        bits: Of each seed.
        less_off: Of each seed, minus those of RETRO[OFF] of the same seed.
    """

    condition: str
    over: str
    bits: tuple[float, ...]
    less_off: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.bits))

    @property
    def gain(self) -> float:
        """Mean over seeds of what is saved against RETRO[OFF]; negative is a loss."""
        return -float(np.mean(self.less_off))


def rows_of(evidence: Evidence) -> list[Row]:
    """Every condition over all chunks, over those of little overlap, and over those of more."""
    seeds = list(evidence.scores)
    present = [name for name in CONDITIONS if name in evidence.scores[seeds[0]]]
    rows: list[Row] = []
    for over, chosen in _subsets(evidence):
        for name in present:
            bits = [_bits(evidence, seed, name, chosen) for seed in seeds]
            off = [_bits(evidence, seed, OFF, chosen) for seed in seeds]
            if None in bits or None in off:
                continue
            known = tuple(value for value in bits if value is not None)
            less = tuple(a - b for a, b in zip(known, (b for b in off if b is not None), strict=True))
            rows.append(Row(condition=name, over=over, bits=known, less_off=less))
    return rows


def _subsets(evidence: Evidence) -> list[tuple[str, np.ndarray]]:
    overlap = evidence.overlap
    return [
        ("all chunks", overlap <= 1),
        ("overlap at most 12.5%", overlap <= 0.125),
        ("overlap above 12.5%", overlap > 0.125),
        ("overlap above 50%", overlap > 0.5),
    ]


def _bits(evidence: Evidence, seed: int, name: str, chosen: np.ndarray) -> float | None:
    scores = evidence.scores[seed][name]
    # Chunks outside the selection get an overlap above every share.
    return bits_per_byte_up_to(0.0, np.where(chosen, 0.0, 1.0), scores.nats, scores.num_bytes)


def table(evidence: Evidence) -> Table:
    """The rows as a table of the report."""
    chosen = dict(_subsets(evidence))
    cells = [
        (
            row.condition,
            f"{row.over} ({int(chosen[row.over].sum()):,} chunks)",
            f"{row.mean:.4f}",
            "" if row.condition == OFF else f"{row.gain:+.4f}",
            "" if row.condition == OFF else " ".join(f"{-value:+.4f}" for value in row.less_off),
        )
        for row in rows_of(evidence)
    ]
    sizes = ", ".join(f"{kind} {count:,}" for kind, count in evidence.parameters.items())
    return Table(
        title="Bits per byte of held-out text, with neighbours and without",
        columns=("model", "over", "bits per byte", "saved against RETRO[OFF]", "by seed"),
        rows=tuple(cells),
        caption=(
            f"Means over {len(evidence.scores)} seeds; {evidence.chunks.documents.coverage}. Overlap: the longest run "
            "of tokens that a chunk shares with one of its ten nearest training chunks and what follows them, by its "
            f"length. Weights: {sizes}."
        ),
    )


def overlap_chart(evidence: Evidence) -> LineChart:
    """What is saved against RETRO[OFF] over the chunks of at most some overlap, for every condition."""
    seeds = list(evidence.scores)
    curves: list[Curve] = []
    for name, label in LABELS.items():
        if name not in evidence.scores[seeds[0]]:
            continue
        saved = np.array([[_saved(evidence, seed, name, share) for share in SHARES] for seed in seeds])
        curves.append(
            Curve(
                name=label,
                x=tuple(100 * share for share in SHARES),
                y=tuple(saved.mean(0).tolist()),
                low=tuple(saved.min(0).tolist()),
                high=tuple(saved.max(0).tolist()),
            )
        )
    return LineChart(
        title="What neighbours save, by overlap",
        x_label="chunks of at most this overlap (%)",
        y_label="bits per byte saved",
        curves=tuple(curves),
        caption=f"Means over {len(seeds)} seeds, bars from the least to the most, against RETRO[OFF]; 100% is all.",
    )


def _saved(evidence: Evidence, seed: int, name: str, share: float) -> float:
    values = [
        bits_per_byte_up_to(share, evidence.overlap, scores.nats, scores.num_bytes)
        for scores in (evidence.scores[seed][OFF], evidence.scores[seed][name])
    ]
    off, found = (0.0 if value is None else value for value in values)
    return off - found


def passages(evidence: Evidence) -> tuple[Passage, ...]:
    """What was read for a few chunks of the first seed: those that neighbours helped most, in the middle, and least."""
    seed = next(iter(evidence.scores))
    scores = evidence.scores[seed]
    saved = (scores[OFF].nats - scores[ON].nats) / np.log(2)
    chunks = evidence.chunks
    # The neighbours that a chunk reads were found for the chunk before it.
    readers = np.flatnonzero((chunks.numbers > 0) & (scores[ON].num_bytes > 0))
    ordered = readers[np.argsort(-saved[readers], kind="stable")]
    picked = [("most", 0), ("second most", 1), ("in the middle", len(ordered) // 2), ("least", len(ordered) - 1)]
    return tuple(_passage(evidence, int(ordered[place]), how, float(saved[ordered[place]])) for how, place in picked)


def _passage(evidence: Evidence, chunk: int, how: str, saved: float) -> Passage:
    chunks, store = evidence.chunks, evidence.chunks.documents.store
    owner, number = int(chunks.owners[chunk]), int(chunks.numbers[chunk])
    rows = chunks.tokens()
    found = evidence.neighbours.ids(owner, np.array([number - 1]))
    corpus = evidence.neighbours.database.corpus
    ids = evidence.neighbours.table.ids(found)[0]
    lines: list[str] = []
    for identity in ids[ids >= 0].tolist():
        tokens = corpus.with_continuations(np.array([identity]))[0]
        document = int(corpus.documents(np.array([identity]))[0])
        begin = (identity - corpus.chunks_of(document).start) * corpus.chunk_size
        text = store.tokenizer.decode(tokens[tokens >= 0].tolist())
        lines.append(f"[{corpus.document_name(document)}, token {begin:,}]\n{text}")
    text = store.tokenizer.decode(rows[chunk][rows[chunk] >= 0].tolist())
    before = store.tokenizer.decode(rows[chunk - 1].tolist())
    name = store.document_names(chunks.documents.split)[owner]
    return Passage(
        title=f"Neighbours helped {how}: {saved:+.1f} bits over the chunk",
        prompt=before,
        text=f"{text}\n\n--- read while this was predicted, found for the chunk before ---\n" + "\n\n".join(lines),
        caption=f"{name}, chunk {number}; overlap {evidence.overlap[chunk]:.0%}.",
    )
