"""What a benchmark of models has measured, and the table of it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.racing.interleave import Race, Ratio

Limit = Literal["least", "most"]
TABLE_HEAD = ("", "| work | against | target | reached (quartiles) | |", "| --- | --- | --- | --- | --- |")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: The work.
        against: Whom our RetNet is measured against.
        ratio: Our speed over theirs, our memory over theirs, or our share.
        target: What is to be reached, None where the line is for information.
        limit: Whether the target is the ``least`` or the ``most`` that the ratio may be.
    """

    what: str
    against: str
    ratio: Ratio
    target: float | None
    limit: Limit

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        if self.target is None:
            return None
        return self.ratio.median >= self.target if self.limit == "least" else self.ratio.median <= self.target

    @property
    def verdict(self) -> str:
        """Whether the target is met, in words; nothing without one."""
        return {True: "met", False: "**not met**", None: ""}[self.met]

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**dataclasses.asdict(self), "met": self.met}


def by_target(rows: list[Row]) -> list[Row]:
    """Rows that have a target first."""
    return sorted(rows, key=lambda row: row.target is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that was measured.

    Attributes:
        machine: What it is called and what it can do.
        plan: Sizes and rounds.
        rows: The table.
        peaks: Bytes of memory of a training step by contestant.
        races: Seconds by race, contestant and round.
    """

    machine: dict[str, Any]
    plan: dict[str, Any]
    rows: list[Row]
    peaks: dict[str, int]
    races: dict[str, Race]

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "machine": self.machine,
            "plan": self.plan,
            "rows": [row.to_json() for row in self.rows],
            "peak_bytes": self.peaks,
            "races": {name: dataclasses.asdict(race) for name, race in self.races.items()},
        }


def table(results: Results) -> str:
    """The results as a Markdown table, lines with a target first."""
    machine = results.machine
    lines = [
        f"{machine['cpu']} ({machine['vector_instructions']}), {machine['threads']} threads, torch {machine['torch']}: "
        f"{machine['matrix_gflop_per_second']:.0f} GFLOP/s in a float32 square product, "
        f"{machine['memory_gigabytes_per_second']:.1f} GB/s in a memory copy.",
        *TABLE_HEAD,
    ]
    for row in by_target(results.rows):
        ratio = row.ratio
        sign = "" if row.target is None else f"at {row.limit} {row.target:g}x"
        spread = f" ({ratio.lower_quartile:.2f} to {ratio.upper_quartile:.2f})" if ratio.rounds > 1 else ""
        lines.append(f"| {row.what} | {row.against} | {sign} | {ratio.median:.2f}x{spread} | {row.verdict} |")
    return "\n".join(lines)
