"""The table and the picture of the datastore's benchmark."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.racing.interleave import Race
from benchmarks.racing.pictures import draw_targets, finish
from benchmarks.racing.results import TABLE_HEAD, Row, by_target

COLOURS = {"retentive": "#0b6e4f", "retentive-all": "#0b6e4f", "retro-pytorch": "#c2571a", "arithmetic": "black"}
YARDSTICK = "retro-pytorch"
FAULTS = ("same_document", "wrong_continuation", "lost_continuation", "missing", "empty_chunks")
COUNTED = ("chunks", *FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that was measured.

    Attributes:
        machine: What it is called.
        plan: Sizes and rounds.
        rows: The table.
        races: Seconds by race, contestant and round.
        facts: What was counted without a clock.
    """

    machine: dict[str, Any]
    plan: dict[str, Any]
    rows: list[Row]
    races: dict[str, Race]
    facts: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "machine": self.machine,
            "plan": self.plan,
            "rows": [row.to_json() for row in self.rows],
            "races": {name: dataclasses.asdict(race) for name, race in self.races.items()},
            "facts": self.facts,
        }


def table(results: Results) -> str:
    """The results as Markdown tables: against targets, speeds, and what is wrong with neighbours."""
    machine = results.machine
    lines = [
        f"{machine['cpu']} ({machine['vector_instructions']}), {machine['threads']} threads, torch {machine['torch']}.",
        *TABLE_HEAD,
    ]
    for row in by_target(results.rows):
        ratio = row.ratio
        unit = "" if row.against in ("a clock", "exact search") else "x"
        sign = "" if row.target is None else f"at {row.limit} {row.target:,g}{unit}"
        spread = f" ({_number(ratio.lower_quartile)} to {_number(ratio.upper_quartile)})" if ratio.rounds > 1 else ""
        reached = f"{_number(ratio.median)}{unit}{spread}"
        lines.append(f"| {row.what} | {row.against} | {sign} | {reached} | {row.verdict} |")
    lines += ["", "| stage | contestant | chunks a second |", "| --- | --- | --- |"]
    for name, race in results.races.items():
        if name not in ("open", "search_one"):
            lines += [
                f"| {name.replace('_', ' ')} | {label} | {1 / race.seconds_per_unit(label):,.0f} |"
                for label in race.seconds
            ]
    columns = {"retentive, dense": ("retentive", ""), "retentive, lexical": ("retentive", "lexical_")}
    if YARDSTICK in compared(results):
        columns[YARDSTICK] = (YARDSTICK, "")
    found = {
        column: {what: results.facts[f"{name} neighbours"].get(f"{kind}{what}") for what in (*COUNTED, "recall_at_2")}
        for column, (name, kind) in columns.items()
    }
    lines += ["", f"| neighbours | {' | '.join(columns)} |", "| --- " * (1 + len(columns)) + "|"]
    for what in COUNTED:
        lines.append(
            f"| {what.replace('_', ' ')} | {' | '.join(f'{found[column][what]:,.0f}' for column in columns)} |"
        )
    recalls = [found[column]["recall_at_2"] for column in columns]
    shown = ["exact" if recall is None else f"{recall:.3f}" for recall in recalls]
    lines.append(f"| recall@2 of the index | {' | '.join(shown)} |")
    return "\n".join(lines)


def compared(results: Results) -> list[str]:
    """Who took part in the stages."""
    return [name for name in ("retentive", YARDSTICK) if name in results.races["encode"].seconds]


def draw(results: Results, path: Path) -> None:
    """Draw the picture."""
    figure, panels = pyplot.subplots(1, 3, figsize=(17, 5.5), layout="constrained")
    draw_targets(panels[0], results.rows, _number)
    _draw_stages(panels[1], results)
    _draw_faults(panels[2], results)
    machine, chunks = results.machine, results.facts["retentive neighbours"]["chunks"]
    finish(
        figure,
        path,
        f"{chunks:,.0f} chunks of 64 tokens, one encoder for both, {machine['threads']} threads of {machine['cpu']}, "
        f"torch {machine['torch']}",
    )


def _draw_stages(axes: Axes, results: Results) -> None:
    stages = ("tokenise", "encode", "index", "table")
    for shift, name in enumerate(compared(results)):
        speeds = [1 / results.races[stage].seconds_per_unit(name) for stage in stages]
        places = [place + 0.38 * shift for place in range(len(stages))]
        bars = axes.bar(places, speeds, 0.36, color=COLOURS[name], label=name)
        axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], fontsize=8)
    limit = 1 / results.races["encode"].seconds_per_unit("arithmetic")
    axes.plot([0.8, 1.6], [limit, limit], color="black", label="the encoder's network alone")
    axes.set_yscale("log")
    axes.set_ylim(top=axes.get_ylim()[1] * 12)  # room for the legend
    axes.set_xticks([place + 0.19 for place in range(len(stages))], [*stages[:3], "query and filter"])
    axes.set_ylabel("chunks a second")
    axes.set_title("Stages, dense")
    axes.legend(fontsize=8, loc="upper right")


def _draw_faults(axes: Axes, results: Results) -> None:
    for shift, name in enumerate(compared(results)):
        counts = [results.facts[f"{name} neighbours"][fault] for fault in FAULTS]
        places = [place + 0.38 * shift for place in range(len(FAULTS))]
        bars = axes.bar(places, counts, 0.36, color=COLOURS[name], label=name)
        axes.bar_label(bars, [f"{count:,.0f}" for count in counts], fontsize=8)
    axes.set_xticks(
        [place + 0.19 for place in range(len(FAULTS))], [fault.replace("_", "\n") for fault in FAULTS], fontsize=8
    )
    axes.set_yscale("symlog")
    axes.set_ylim(0, axes.get_ylim()[1] * 5)
    axes.set_ylabel("places in the table")
    axes.set_title("What is wrong with the neighbours")
    axes.legend(fontsize=8)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
