"""The datastore's benchmark at tiny sizes, without the other packages."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

from benchmarks.racing import machine
from benchmarks.racing.interleave import Arena
from benchmarks.reports.retrieval import draw, table

from benchmarks import retrieval

PLAN = replace(retrieval.QUICK, documents=3, whole=4, encoded=4, vectors=300, queries=20, asked=10)


def corpus(folder: Path) -> Path:
    """Four short documents in one archive."""
    (folder / "corpus").mkdir()
    with tarfile.open(folder / "corpus.tar.gz", "w:gz") as archive:
        for number in range(4):
            path = folder / "corpus" / f"{number}.rst"
            path.write_text(" ".join(f"word{number * place % 37} of a sentence" for place in range(80)))
            archive.add(path, path.name)
    return folder / "corpus.tar.gz"


def test_the_benchmark_measures_every_work_and_reports_it(tmp_path: Path) -> None:
    texts = retrieval.unpack(corpus(tmp_path), tmp_path / "files", PLAN)
    assert len(list(texts[0].rglob("*.rst"))) == 4
    assert len(list(texts[1].rglob("*.rst"))) == 3
    competing = retrieval.contestants(PLAN, tmp_path / "files", texts, threads=1, with_yardstick=False)
    with Arena(competing, threads=1) as arena:
        benchmark = retrieval.Benchmark(arena, PLAN, tmp_path / "files", with_yardstick=False)
        benchmark.prepare()
        benchmark.run()
    results = benchmark.results(machine.description(threads=1))
    assert {*retrieval.STAGES, "lexical_build", "query", "filter", "open", "search_one"} <= set(results.races)
    judged = results.facts["retentive neighbours"]
    assert judged["chunks"] > 10
    for fault in ("same_document", "wrong_continuation", "lost_continuation", "empty_chunks"):
        assert judged[fault] == judged[f"lexical_{fault}"] == 0
    assert judged["recall_at_2"] == 1  # an exact index
    assert all(row.target is None for row in results.rows), "targets are for the full sizes"
    assert json.loads(json.dumps(results.to_json()))["facts"] == results.facts
    assert "| recall@2 of the index | 1.000 | exact |" in table(results)
    draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
