"""The RETRO benchmark at tiny sizes, without the other package."""

import json
from pathlib import Path

from benchmarks.racing import machine
from benchmarks.racing.interleave import Arena
from benchmarks.racing.results import table
from benchmarks.reports.retro import draw

from benchmarks import retro


def test_the_benchmark_measures_every_work_and_reports_it(tmp_path: Path) -> None:
    with Arena(retro.contestants(retro.QUICK, threads=1, with_yardstick=False), threads=1) as arena:
        benchmark = retro.Benchmark(arena, retro.QUICK, with_yardstick=False)
        benchmark.run()
    results = benchmark.results(machine.description(threads=1))
    assert list(results.races) == ["training step", "decode", "decode by chunks", "machine"]
    facts = results.races["decode by chunks"].facts
    first, last = retro.QUICK.chunks
    over_retention, over_attention = (
        [facts[f"{name}, chunk {chunks}"]["state_bytes"] for chunks in (first, last)]
        for name in (retro.RETENTION, retro.OURS)
    )
    assert over_retention[0] == over_retention[1]
    assert over_attention[0] < over_attention[1]
    assert set(results.peaks) == {retro.OURS, retro.RETENTION}
    assert len(results.rows) == 2
    assert json.loads(json.dumps(results.to_json()))["machine"]["matrix_gflop_per_second"] > 0
    draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert len(table(results).splitlines()) == 4 + len(results.rows)
