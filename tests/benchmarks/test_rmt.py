"""The recurrent-memory benchmark at tiny sizes, without the other package."""

import json
from pathlib import Path

from benchmarks.racing import machine
from benchmarks.racing.interleave import Arena
from benchmarks.racing.results import table
from benchmarks.reports.rmt import draw

from benchmarks import rmt


def test_the_benchmark_measures_every_work_and_reports_it(tmp_path: Path) -> None:
    with Arena(rmt.contestants(rmt.QUICK, threads=1, with_yardstick=False), threads=1) as arena:
        benchmark = rmt.Benchmark(arena, rmt.QUICK, with_yardstick=False)
        benchmark.run()
    results = benchmark.results(machine.description(threads=1))
    works = ("training step", "memory replay", "generation")
    expected = [work + suffix for suffix in ("", " with recall") for work in works]
    assert list(results.races) == [*expected, "segments of a long text", "machine"]
    facts = results.races["segments of a long text"].facts
    first, last = rmt.QUICK.segments
    assert facts[f"segment {first}"]["state_bytes"] == facts[f"segment {last}"]["state_bytes"]
    assert [row.what for row in results.rows] == [
        f"time of segment {last}",
        f"resident memory that reading {last * rmt.QUICK.segment_length:,} tokens adds",
    ]
    assert json.loads(json.dumps(results.to_json()))["machine"]["matrix_gflop_per_second"] > 0
    draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert len(table(results).splitlines()) == 4 + len(results.rows)


def test_recall_is_the_only_difference_between_the_two_models() -> None:
    with_recall, without = (rmt.our_config(rmt.FULL, recalls=recalls) for recalls in (True, False))
    changed = {name for name, value in with_recall.items() if without.get(name) != value}
    assert changed == {"xl_length", "xl_gradient"}
    assert without.keys() <= with_recall.keys()
    assert with_recall["xl_length"] == 256
