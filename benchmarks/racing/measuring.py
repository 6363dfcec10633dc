"""What the benchmarks of models share: races in an arena, collected as rows against targets."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from benchmarks.racing import machine
from benchmarks.racing.interleave import Arena, Race, Ratio, Task
from benchmarks.racing.results import Limit, Results, Row


class Judged(Protocol):
    """A frozen dataclass of sizes, which says whether targets apply to them."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def judged(self) -> bool:
        """Whether targets apply."""
        ...


Plan = TypeVar("Plan", bound=Judged)


class Measuring(Generic[Plan]):
    """Runs the races of a plan in an arena and collects what they show.

    Attributes:
        arena: Where contestants are.
        plan: Sizes, and whether targets apply to them.
        with_yardstick: Whether the other package takes part.
        races: What was measured, by name.
        peaks: Bytes, by contestant.
        rows: What is reported of it.
    """

    def __init__(self, arena: Arena, plan: Plan, *, with_yardstick: bool) -> None:
        """Take part in an open arena that holds the plan's contestants."""
        self.arena = arena
        self.with_yardstick = with_yardstick
        self.plan = plan
        self.races: dict[str, Race] = {}
        self.peaks: dict[str, int] = {}
        self.rows: list[Row] = []

    def race(self, name: str, tasks: Mapping[str, Task], rounds: int) -> Race:
        """Race tasks and keep the race."""
        self.races[name] = self.arena.race(name, tasks, rounds=rounds)
        return self.races[name]

    def row(self, what: str, against: str, ratio: Ratio, target: float | None, limit: Limit) -> None:
        """Report a ratio; ``target`` is None where none was set."""
        self.rows.append(Row(what, against, ratio, target if self.plan.judged else None, limit))

    def collected(self, description: dict[str, Any], machine_race: str) -> Results:
        """Everything that was measured, as the report takes it.

        Args:
            description: Of the machine.
            machine_race: The race that the machine's own works took part in.
        """
        return Results(
            machine={**description, **machine.speeds(self.races[machine_race])},
            plan=asdict(self.plan),
            rows=self.rows,
            peaks=self.peaks,
            races=self.races,
        )
