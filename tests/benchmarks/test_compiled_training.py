import json
from dataclasses import replace
from pathlib import Path

from benchmarks.compiled_training import QUICK, Benchmark, contestants, draw
from benchmarks.racing import machine
from benchmarks.racing.interleave import Arena
from benchmarks.racing.results import table


def test_the_benchmark_measures_every_length_and_reports_it(tmp_path: Path) -> None:
    plan = replace(QUICK, training=QUICK.training[:1])
    with Arena(contestants(plan, threads=1, with_yardstick=False), threads=1) as arena:
        benchmark = Benchmark(arena, plan, with_yardstick=False)
        benchmark.run()
    results = benchmark.results(machine.description(threads=1))
    (race,) = results.races.values()
    # The Transformer is of the Llama's shape: as many weights, one for one.
    assert race.facts["transformer"]["parameters"] == race.facts["transformers' Llama"]["parameters"]
    assert json.loads(json.dumps(results.to_json()))["rows"]
    draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert len(table(results).splitlines()) == 4 + len(results.rows)
