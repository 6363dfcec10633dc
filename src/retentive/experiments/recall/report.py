"""What trials of recall found: rows of a table, and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retentive.data.tasks.recurrent_tasks import VALUES
from retentive.evaluation.report.document import LineChart
from retentive.experiments.recall.answers import Row, cell, chart_of_answers, curve_of, table_header, table_line
from retentive.experiments.recall.questions import DEPTHS, MEMORY, SHUFFLED, ZEROED, Answers

NO_MEMORY = "no memory"
"""A Transformer that sees the last segment alone."""

NAMES = {
    MEMORY: "recurrent memory",
    ZEROED: "memory zeroed before the question",
    SHUFFLED: "memory of another text",
    NO_MEMORY: "Transformer, same segment, no memory",
}

CHANCE = 1 / len(VALUES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """Results of one seed: how its model was trained, and what it recalls.

    Attributes:
        seed: Seeds the weights, the training and the trials.
        parameters: Weights of the model with memory.
        is_learned: Whether every stage of training was learned.
        training_seconds: Wall-clock time of training the model with memory.
        training_processor_seconds: Processor time of the same, summed over threads.
        steps: Of each phase of training; the model without memory was trained for as many.
        rows: What it recalls.
        seconds: Duration of reading, by length.
        resident_bytes: The most memory of the process while reading, by length; None where the system does not tell.
    """

    seed: int
    parameters: int
    is_learned: bool
    training_seconds: float
    training_processor_seconds: float
    steps: tuple[int, ...]
    rows: tuple[Row, ...] = ()
    seconds: tuple[tuple[int, float], ...] = ()
    resident_bytes: tuple[tuple[int, int | None], ...] = ()

    def row(self, what: str, length: int, depth: float | None = None) -> Row:
        """The row of one condition, length and depth."""
        found = (row for row in self.rows if (row.what, row.length, row.depth) == (what, length, depth))
        return next(found)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Bytes of the texts, in increasing order."""
        return tuple(sorted({row.length for row in self.rows}))

    def at_lengths(self, lengths: Sequence[int]) -> "SeedResult":
        """The result at some of its lengths, in their order."""
        seconds, resident_bytes = dict(self.seconds), dict(self.resident_bytes)
        return replace(
            self,
            rows=tuple(row for length in lengths for row in self.rows if row.length == length),
            seconds=tuple((length, seconds[length]) for length in lengths),
            resident_bytes=tuple((length, resident_bytes[length]) for length in lengths),
        )


def seed_result_from_dict(found: Mapping[str, Any]) -> SeedResult:
    """The inverse of ``dataclasses.asdict``, after JSON has made lists of tuples."""
    values = dict(found)
    return SeedResult(
        rows=tuple(Row(**row) for row in values.pop("rows")),
        steps=tuple(values.pop("steps")),
        seconds=tuple((length, seconds) for length, seconds in values.pop("seconds")),
        resident_bytes=tuple((length, size) for length, size in values.pop("resident_bytes")),
        **values,
    )


def rows_of(answers: Answers, names: dict[str, str] | None = None) -> Iterator[Row]:
    """Rows for all depths together and for each, under every condition that was asked in.

    Args:
        answers: What a model answered.
        names: What to call a condition instead; None leaves them all.
    """
    for after in answers.answers:
        for depth in (None, *DEPTHS):
            hits, trials = answers.hits(after, depth)
            if trials:
                what = (names or {}).get(after, after)
                yield Row(what=what, length=answers.length, depth=depth, hits=hits, trials=trials)


def markdown(results: Sequence[SeedResult]) -> str:
    """All numbers as tables in Markdown."""
    lengths, longest = results[0].lengths, results[0].lengths[-1]
    return "\n".join(
        (
            f"Right answers of {results[0].row(MEMORY, longest).trials} questions about a fact that was read once, and "
            f"Wilson's interval at 95%; chance is {CHANCE:.2%}. One row at a time, state carried.",
            "",
            table_header("", "seed", *(f"{length:,} bytes" for length in lengths)),
            *(
                table_line(NAMES[what], result.seed, *(cell(result.row(what, length)) for length in lengths))
                for what in NAMES
                for result in results
            ),
            "",
            f"By depth of the fact, at {longest:,} bytes (0: begin of the text):",
            "",
            table_header("", "seed", *(f"depth {depth:g}" for depth in DEPTHS)),
            *(
                table_line(NAMES[what], result.seed, *_by_depth(result, what, longest))
                for what in (MEMORY, ZEROED, SHUFFLED, NO_MEMORY)
                for result in results
            ),
            "",
            "Training and memory:",
            "",
            table_header(
                "seed",
                "parameters",
                "learned",
                "training",
                "steps",
                *(f"resident at {length:,}" for length in lengths),
                f"seconds for one text of {longest:,}",
            ),
            *(_training(result) for result in results),
        )
    )


def _by_depth(result: SeedResult, what: str, length: int) -> Iterator[str]:
    # Of fewer trials than depths, each length has some depths alone.
    known = {row.depth for row in result.rows if (row.what, row.length) == (what, length)}
    for depth in DEPTHS:
        yield cell(result.row(what, length, depth)) if depth in known else ""


def _training(result: SeedResult) -> str:
    longest = result.lengths[-1]
    return table_line(
        result.seed,
        f"{result.parameters:,}",
        "yes" if result.is_learned else "**no**",
        f"{result.training_seconds:.0f} s ({result.training_processor_seconds:.0f} s of processor time)",
        " + ".join(map(str, result.steps)),
        *("" if size is None else f"{size / 2**20:.1f} MiB" for _, size in result.resident_bytes),
        f"{dict(result.seconds)[longest] / result.row(MEMORY, longest).trials:.1f}",
    )


def recall_chart(results: Sequence[SeedResult]) -> LineChart:
    """Right answers against length: a line for each seed, and one for each control, over all seeds."""
    lengths, trials = results[0].lengths, results[0].rows[0].trials
    curves = [curve_of(f"memory, seed {result.seed}", [result.row(MEMORY, at) for at in lengths]) for result in results]
    short = {ZEROED: "zeroed", SHUFFLED: "another's", NO_MEMORY: "no memory"}
    for what, name in short.items():
        curves.append(curve_of(name, [_pooled([result.row(what, at) for result in results]) for at in lengths]))
    return chart_of_answers(
        curves,
        title="A fact that was read once",
        x_label="bytes read between the begin of the text and the question",
        caption=(
            f"Chance is {CHANCE:.4g}. Bars are Wilson intervals at 95%, over {trials} trials of a "
            "seed, or over all seeds for controls."
        ),
    )


def _pooled(rows: Sequence[Row]) -> Row:
    first = rows[0]
    hits, trials = sum(row.hits for row in rows), sum(row.trials for row in rows)
    return Row(what=first.what, length=first.length, depth=None, hits=hits, trials=trials)
