"""The command line that benchmarks of models share: options in; JSON, a table and a picture out."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.racing import machine
from benchmarks.racing.interleave import ROOT, Arena, Contestant
from benchmarks.racing.results import Results, table

Plan = TypeVar("Plan")
Taken = TypeVar("Taken", contravariant=True)


class Measures(Protocol):
    """A benchmark that takes part in an open arena."""

    def run(self) -> None:
        """Measure everything."""
        ...

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        ...


class MakeContestants(Protocol[Taken]):
    """Who competes in a plan."""

    def __call__(self, plan: Taken, *, threads: int, with_yardstick: bool) -> Sequence[Contestant]:
        """Make them; FileNotFoundError says what is not installed."""
        ...


class MakeBenchmark(Protocol[Taken]):
    """A benchmark over an arena."""

    def __call__(self, arena: Arena, plan: Taken, *, with_yardstick: bool) -> Measures:
        """Make it."""
        ...


def run_benchmark(
    stem: str,
    about: str | None,
    *,
    full: Plan,
    quick: Plan,
    contestants: MakeContestants[Plan],
    benchmark: MakeBenchmark[Plan],
    draw: Callable[[Results, Path], None],
) -> None:
    """Read the options, run the benchmark, write its results and print its table.

    Args:
        stem: Of the names of the files that are written.
        about: What ``--help`` says.
        full: The sizes that targets are set for.
        quick: Tiny sizes, to see that it runs.
        contestants: Who competes.
        benchmark: What they do.
        draw: Draws the picture.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; files end in -quick")
    parser.add_argument("--without-yardstick", action="store_true", help="leave the other package out")
    parser.add_argument("--threads", type=int, default=2, help="threads of each contestant (default: 2)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench", help="folder of the results")
    arguments = parser.parse_args()
    plan, with_yardstick = quick if arguments.quick else full, not arguments.without_yardstick
    try:
        competing = contestants(plan, threads=arguments.threads, with_yardstick=with_yardstick)
    except FileNotFoundError as error:
        parser.error(str(error))
    with Arena(competing, threads=arguments.threads) as arena:
        measured = benchmark(arena, plan, with_yardstick=with_yardstick)
        measured.run()
    results = measured.results(machine.description(threads=arguments.threads))
    arguments.output.mkdir(parents=True, exist_ok=True)
    name = f"{stem}-quick" if arguments.quick else stem
    (arguments.output / f"{name}.json").write_text(json.dumps(results.to_json(), indent=1) + "\n")
    (arguments.output / f"{name}.md").write_text(table(results) + "\n")
    draw(results, arguments.output / f"{name}.png")
    print(table(results))
    print(f"\nWritten: {arguments.output / name}.json, {name}.md and {name}.png")
