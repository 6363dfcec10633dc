"""What was remembered, by distance: a table and a picture."""

from collections.abc import Mapping, Sequence

from retentive.evaluation.report.document import Curve, LineChart
from retentive.experiments.recall.answers import Row, cell, chart_of_answers, curve_of, table_header, table_line
from retentive.experiments.recall.questions import MEMORY, SHUFFLED, ZEROED
from retentive.experiments.recall.report import NO_MEMORY

NAMES = {
    MEMORY: "memory",
    ZEROED: "memory zeroed",
    SHUFFLED: "memory of another text",
    NO_MEMORY: "the question alone",
}


def markdown(answers: Mapping[str, Sequence[Row]]) -> str:
    """Right answers by distance.

    Args:
        answers: Of each kind of word.
    """
    distances = distances_of(answers)
    lines = [table_header("words", "asked after", *(f"{distance} segments" for distance in distances))]
    for kind, rows in answers.items():
        for what, name in NAMES.items():
            cells = (cell(_row(rows, what, distance)) for distance in distances)
            lines.append(table_line(kind, name, *cells))
    return "\n".join(lines)


def distances_of(answers: Mapping[str, Sequence[Row]]) -> list[int]:
    """Segments between fact and question, ascending."""
    return sorted({row.length for rows in answers.values() for row in rows})


def chart(answers: Mapping[str, Sequence[Row]]) -> LineChart:
    """Right answers against distance: the memory's of each kind of word, and the controls of the last kind."""
    distances = distances_of(answers)
    curves = [_curve(f"memory, {kind} words", rows, MEMORY, distances) for kind, rows in answers.items()]
    kind, rows = list(answers.items())[-1]
    curves += [_curve(name, rows, what, distances) for what, name in NAMES.items() if what != MEMORY]
    return chart_of_answers(
        curves,
        title="A word that was said once, around a pretrained model",
        x_label="segments from the word to the question",
        caption=(
            "Right: the likeliest of all tokens. Bars are Wilson intervals at 95% over "
            f"{rows[0].trials} texts; controls are of {kind} words."
        ),
    )


def _curve(name: str, rows: Sequence[Row], what: str, distances: Sequence[int]) -> Curve:
    return curve_of(name, [_row(rows, what, distance) for distance in distances])


def _row(rows: Sequence[Row], what: str, distance: int) -> Row:
    return next(row for row in rows if (row.what, row.length) == (what, distance))
