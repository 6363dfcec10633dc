"""The comparison of RETRO with and without neighbours and with a Transformer: a table, a picture, and examples."""

from dataclasses import dataclass

import numpy as np

from retentive.evaluation.measures.overlap import bits_per_byte_up_to
from retentive.evaluation.report.document import Curve, LineChart, Passage, Table
from retentive.experiments.retro_evidence.evidence import (
    DENSE_PART,
    FIT_OFF,
    FIT_ON,
    FIT_OWN,
    FIT_SHUFFLED,
    LEXICAL_PART,
    OFF,
    ON,
    OWN,
    SHUFFLED,
    TRANSFORMER,
    TRANSFORMER_LONGER,
    Evidence,
)

SHARES = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Overlaps up to which chunks are counted; 12.5% is at most eight tokens of 64 in one piece."""

OF_FIT = (FIT_OFF, FIT_SHUFFLED, FIT_ON, FIT_OWN)
CONDITIONS = (TRANSFORMER, TRANSFORMER_LONGER, OFF, SHUFFLED, ON, OWN, LEXICAL_PART, DENSE_PART, *OF_FIT)

LABELS = {ON: "right ones", SHUFFLED: "wrong ones", FIT_ON: "RETROfit, right", FIT_SHUFFLED: "RETROfit, wrong"}
"""What curves are called. What has other weights, or other neighbours, is in the table alone."""

COPIED = 0.01
"""Bits per byte that a chunk's own text has to save at least, for a model to be one that copies."""


def without_neighbours(condition: str) -> str:
    """The same model without neighbours."""
    return FIT_OFF if condition in OF_FIT else OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Bits per byte of one condition, over all seeds.

    Attributes:
        condition: Which neighbours were read.
        over: Which chunks: a share for those of at most this overlap, or "above" and a share.
        bits: Of each seed.
        less_off: Of each seed, minus those of the same seed without neighbours (the Transformers', of RETRO[OFF]).
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
        """Mean over seeds of what neighbours save; negative is a loss."""
        return -float(np.mean(self.less_off))


def rows_of(evidence: Evidence) -> list[Row]:
    """Every condition over all chunks, over those of little overlap, and over those of more."""
    seeds = list(evidence.scores)
    present = [name for name in CONDITIONS if name in evidence.scores[seeds[0]]]
    rows: list[Row] = []
    for over, chosen in _subsets(evidence):
        for name in present:
            bits = [_bits(evidence, seed, name, chosen) for seed in seeds]
            off = [_bits(evidence, seed, without_neighbours(name), chosen) for seed in seeds]
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
            "" if row.condition in (OFF, FIT_OFF) else f"{row.gain:+.4f}",
            "" if row.condition in (OFF, FIT_OFF) else " ".join(f"{-value:+.4f}" for value in row.less_off),
        )
        for row in rows_of(evidence)
    ]
    sizes = ", ".join(f"{kind} {count:,}" for kind, count in evidence.parameters.items())
    return Table(
        title="Bits per byte of held-out text, with neighbours and without",
        columns=("model", "over", "bits per byte", "saved against [OFF]", "by seed"),
        rows=tuple(cells),
        caption=(
            f"Means over {len(evidence.scores)} seeds; {evidence.chunks.documents.coverage}. Overlap: the longest run "
            "of tokens that a chunk shares with one of its ten nearest training chunks and what follows them, by its "
            "length. Own text, shifted, is the copying control: a model that does not gain by it cannot copy. The "
            f"Transformers' rows are compared with RETRO[OFF]. Weights: {sizes}.{copying_warning(evidence)}"
        ),
    )


def copying_warning(evidence: Evidence) -> str:
    """A sentence for each model that a chunk's own text does not help; empty where it helps all."""
    chosen = evidence.overlap <= 1
    found: list[str] = []
    for off, own in ((OFF, OWN), (FIT_OFF, FIT_OWN)):
        for seed in evidence.scores:
            bits = [_bits(evidence, seed, name, chosen) for name in (off, own)]
            if None not in bits and (bits[0] or 0.0) - (bits[1] or 0.0) < COPIED:
                found.append(
                    f" Warning: the own text saves {(bits[0] or 0.0) - (bits[1] or 0.0):.4f} bits per byte in "
                    f"{own.partition('[')[0]} of seed {seed}, so it has not learned to copy, and no neighbour can help "
                    "it: train longer, with more own_text_steps."
                )
    return "".join(found)


def overlap_chart(evidence: Evidence) -> LineChart:
    """What is saved by neighbours over the chunks of at most some overlap, for every condition."""
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
        caption=f"Means over {len(seeds)} seeds, bars from the least to the most, against the same model without them.",
    )


def _saved(evidence: Evidence, seed: int, name: str, share: float) -> float:
    values = [
        bits_per_byte_up_to(share, evidence.overlap, scores.nats, scores.num_bytes)
        for scores in (evidence.scores[seed][without_neighbours(name)], evidence.scores[seed][name])
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
    last = len(ordered) - 1
    picked: dict[int, str] = {}  # a short text has fewer
    for how, place in (("most", 0), ("least", last), ("second most", 1), ("in the middle", last // 2)):
        if 0 <= place <= last:
            picked.setdefault(place, how)
    return tuple(
        _passage(evidence, int(ordered[place]), how, float(saved[ordered[place]]))
        for place, how in sorted(picked.items())
    )


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
