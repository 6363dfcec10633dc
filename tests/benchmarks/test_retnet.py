import json
import math
from pathlib import Path

import pytest
import torch
from benchmarks.racing import machine
from benchmarks.racing.flops import forward_flops
from benchmarks.racing.interleave import Arena, Ratio
from benchmarks.racing.results import Results, Row, table
from benchmarks.reports.retnet import draw
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import retnet
from retentive import RetNet, RetNetConfig, Transformer, TransformerConfig


@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("time", [16, 40, 48])
def test_flops_are_those_of_the_products_that_run(time: int, tie_embeddings: bool) -> None:
    model = RetNet(
        RetNetConfig(
            vocab_size=50, hidden_size=24, num_layers=2, num_heads=3, chunk_size=16, tie_embeddings=tie_embeddings
        )
    )
    # torch does not count the product that is added in place.
    in_place = {torch.ops.aten.baddbmm_: lambda _, left, right, **__: 2 * math.prod(left) * right[2]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter, torch.no_grad():
        model(torch.randint(50, (1, time)))
    assert forward_flops(model, time) == counter.get_total_flops()


def test_flops_of_attention_are_refused() -> None:
    model = Transformer(TransformerConfig(vocab_size=50, hidden_size=24, num_layers=1, num_heads=3))
    with pytest.raises(TypeError, match="must be of retention layers"):
        forward_flops(model, 16)


def test_the_benchmark_measures_every_work_and_reports_it(tmp_path: Path) -> None:
    plan = retnet.QUICK
    with Arena(retnet.contestants(plan, threads=1, with_yardstick=False), threads=1) as arena:
        benchmark = retnet.Benchmark(arena, plan, with_yardstick=False)
        benchmark.run()
    results = benchmark.results(machine.description(threads=1))
    races = ["training 32", "training 96", "prefill", "decode batch 1", "decode batch 2", "decode by context"]
    assert list(results.races) == races
    facts = results.races["decode by context"].facts
    assert facts["retnet 16"]["state_bytes"] == facts["retnet 64"]["state_bytes"]
    assert facts["transformer 64"]["state_bytes"] > 3 * facts["transformer 16"]["state_bytes"]
    assert set(results.peaks) == {"retnet", "transformer"}
    assert json.loads(json.dumps(results.to_json()))["machine"]["matrix_gflop_per_second"] > 0
    draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert len(table(results).splitlines()) == 4 + len(results.rows)


def test_the_table_says_what_is_met() -> None:
    ratio = Ratio(median=2.0, lower_quartile=1.5, upper_quartile=2.5, rounds=5)
    rows = [
        Row("for information", "them", ratio, None, "least"),
        Row("fast enough", "them", ratio, 1.9, "least"),
        Row("too slow", "them", ratio, 2.1, "least"),
        Row("small enough", "them", ratio, 2.1, "most"),
        Row("too large", "them", ratio, 1.9, "most"),
    ]
    names = {"cpu": "a CPU", "vector_instructions": "AVX2", "threads": 2, "torch": "2"}
    speeds = {"matrix_gflop_per_second": 1.0, "memory_gigabytes_per_second": 1.0}
    lines = table(Results(machine=names | speeds, plan={}, rows=rows, peaks={}, races={})).splitlines()[4:]
    assert lines == [
        "| fast enough | them | at least 1.9x | 2.00x (1.50 to 2.50) | met |",
        "| too slow | them | at least 2.1x | 2.00x (1.50 to 2.50) | **not met** |",
        "| small enough | them | at most 2.1x | 2.00x (1.50 to 2.50) | met |",
        "| too large | them | at most 1.9x | 2.00x (1.50 to 2.50) | **not met** |",
        "| for information | them |  | 2.00x (1.50 to 2.50) |  |",
    ]
