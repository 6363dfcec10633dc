"""The benchmark of precisions at tiny sizes, without the packages that are installed apart."""

from pathlib import Path

from benchmarks.racing import machine
from benchmarks.racing.interleave import Arena

from benchmarks import training_precision as module


def test_each_work_is_raced_in_both_precisions(tmp_path: Path) -> None:
    with Arena(module.contestants(module.QUICK, threads=1, with_yardstick=False), threads=1) as arena:
        benchmark = module.Benchmark(arena, module.QUICK, with_yardstick=False)
        benchmark.run()
    results = benchmark.results(machine.description(threads=1))
    assert set(results.races) == {contest.name for contest in module.QUICK.contests}
    for race in results.races.values():
        labels = set(race.seconds) - {"matrix_product", "memory_copy"}
        assert {label.rsplit(" ", 1)[1] for label in labels} == {"float32", "bfloat16"}
    over_llama = [row.what for row in results.rows if row.against == "transformers' Llama"]
    assert len(over_llama) == 3
    assert sum("as they come here" in what for what in over_llama) == 1
    module.draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
