import json
from pathlib import Path

from benchmarks.engines import QUICK, Benchmark, contestants, draw
from benchmarks.racing import machine
from benchmarks.racing.interleave import Arena
from benchmarks.racing.results import table


def test_the_benchmark_measures_every_width_and_batch_and_reports_them(tmp_path: Path) -> None:
    with Arena(contestants(QUICK, threads=1, with_yardstick=False), threads=1) as arena:
        benchmark = Benchmark(arena, QUICK, with_yardstick=False)
        benchmark.run()
    results = benchmark.results(machine.description(threads=1))
    assert list(results.races) == ["decode 32 batch 1", "decode 32 batch 2"]
    one, two = (race.facts["eager"] for race in results.races.values())
    assert two["state_bytes"] > 1.9 * one["state_bytes"]
    assert two["step_bytes"] - one["step_bytes"] == 2 * (two["state_bytes"] - one["state_bytes"])
    assert json.loads(json.dumps(results.to_json()))["rows"]
    draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert len(table(results).splitlines()) == 4 + len(results.rows)
