"""What a datastore that lives takes in time, memory and disk.

    python -m benchmarks.store_figures --corpus peps.tar.gz [--against CHECKOUT]

A sync of one changed file among 10,000; search for chunks, and for answers with their text; what checksums take of it;
building by words, beside an earlier checkout; bytes on disk, beside LanceDB and bm25s; a table over one document of
1.1 MB; a document of hex; search by dense vectors through ``retentive index serve``; and a million chunks. On a machine
that others use, read processor time.
Writes ``runs/bench/store_figures.json`` and ``.md``.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.racing.interleave import ROOT, ratio_of_rounds
from benchmarks.racing.results import TABLE_HEAD, Row
from benchmarks.retrieval import FULL, encoder_folder, unpack
from benchmarks.yardsticks.install import install, yardstick_python

WORKER = Path(__file__).parent / "workers" / "store_figures.py"
DISK_WORKER = WORKER.parent / "disk_bytes.py"
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PORT = 18_788


def work(name: str, source: Path = ROOT, /, **arguments: Any) -> dict[str, Any]:
    """Run a work in a process of its own, with the library of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(WORKER), name, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def command_seconds(*words: str) -> tuple[float, float]:
    """Processor time and time by the clock of ``retentive``, its start included."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "retentive", *words], check=True, stdout=subprocess.DEVNULL)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begin
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


class Figures:
    """Takes one figure after the other into rows of a table."""

    def __init__(self, text: Path, selection: Path, place: Path) -> None:
        self.text, self.selection, self.place = text, selection, place
        self.rows: list[Row] = []
        self.facts: dict[str, Any] = {}

    def add(self, what: str, against: str, values: Sequence[float], target: float | None) -> None:
        """One line: the median of some values, and the most that it may be."""
        self.rows.append(Row(what, against, ratio_of_rounds(values, [1.0] * len(values)), target, "most"))

    def sync(self, files: int, rounds: int) -> None:
        """One changed file among many."""
        folder, store = self.place / "files", self.place / "files-store"
        whole = "\n".join(path.read_text("utf-8") for path in sorted(self.text.rglob("*.rst")))
        size = len(whole) // files
        for number in range(files):
            path = folder / f"{number // 100:03}" / f"{number:05}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(whole[number * size : (number + 1) * size])
        where = ("--source", str(folder), "--store", str(store))
        command_seconds("index", "build", *where, "--tokenizer", "bytes")
        times: list[tuple[float, float]] = []
        for turn in range(rounds):
            (folder / "000" / "00000.txt").write_text(f"changed in turn {turn}\n" + whole[:size])
            times.append(command_seconds("index", "sync", *where))
        self.add(f"sync of 1 changed file in {files:,}, processor seconds", "a clock", [used for used, _ in times], 2.0)
        self.add("the same by the clock, seconds", "a clock", [seconds for _, seconds in times], None)

    def queries(self, count: int) -> Path:
        """Sentences of the documents, as a file."""
        chance, chosen = random.Random(0), list[str]()
        paths = sorted(self.text.rglob("*.rst"))
        while len(chosen) < count:
            sentence = chance.choice(_SENTENCE.split(chance.choice(paths).read_text("utf-8")))
            if 40 < len(sentence) < 300:
                chosen.append(re.sub(r'["\-:=<>]', " ", sentence))
        path = self.place / "queries.json"
        path.write_text(json.dumps(chosen))
        return path

    def build(self, against: Path | None, rounds: int) -> Path:
        """Building by words, in turns with an earlier checkout; and bytes on disk."""
        ours: list[float] = []
        theirs: list[float] = []
        store, made = self.place / "words", dict[str, Any]()
        for _ in range(rounds):
            for source, used in ((ROOT, ours), (against, theirs)):
                if source is not None:
                    folder = store if source == ROOT else self.place / "earlier"
                    shutil.rmtree(folder, ignore_errors=True)
                    measured = work("build", source, text=str(self.text), store=str(folder))
                    used.append(measured["used"] / measured["chunks"])
                    made = measured if source == ROOT else made
        self.facts["build"] = made
        if theirs:
            ratio = ratio_of_rounds(theirs, ours)
            self.rows.append(Row("building by words, chunks a second", "the earlier checkout", ratio, 0.8, "least"))
        self.add("bytes on disk a byte of text", "the text", [made["disk_bytes"] / made["text_bytes"]], None)
        self._disk_of_others(store, made["text_bytes"])
        return store

    def _disk_of_others(self, store: Path, text_bytes: float) -> None:
        """Bytes on disk of the same passages in other packages, each in its own environment."""
        path = self.place / "passages.json"
        work("passages", store=str(store), path=str(path))
        for name in ("lancedb", "bm25s"):
            install(name)
            # -P: a worker beside it has the name of a package.
            command = [str(yardstick_python(name)), "-P", str(DISK_WORKER), name, str(path), str(self.place / name)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            self.add(f"the same passages in {name}", "the text", [int(done.stdout.split()[-1]) / text_bytes], None)

    def hexadecimal(self, megabytes: int) -> None:
        """One document of hexadecimal digits, whose every word is another."""
        made = work("hexadecimal", store=str(self.place / "hex"), megabytes=megabytes)
        self.facts["hexadecimal"] = made
        self.add(
            f"{megabytes} MB of hex in one document, gigabytes of memory", "nothing", [made["peak_bytes"] / 1e9], None
        )

    def search(self, store: Path, queries: Path, against: Path | None, rounds: int) -> None:
        """Search with its text, in turns with an earlier checkout; and the share of it that checksums take."""
        ours, theirs = list[float](), list[float]()
        for _ in range(rounds):
            ours.append(work("search", store=str(store), queries=str(queries))["shown"])
            if against is not None:
                earlier = work("search", against, store=str(self.place / "earlier"), queries=str(queries))
                theirs.append(earlier["shown"])
        self.add("10 answers with their text, mean seconds", "a clock", ours, None)
        if theirs:
            ratio = ratio_of_rounds(ours, theirs)
            self.rows.append(Row("the same", "the earlier checkout", ratio, 1.2, "most"))
        spent = work("checks", store=str(store), queries=str(queries))
        self.facts["checks"] = spent
        shares = {name: spent[f"{name}_checks"] / spent[name] for name in ("first", "every")}
        self.add("checksums in opening and one search", "its time", [shares["first"]], None)
        self.add("checksums in opening and 200 searches", "their time", [shares["every"]], 0.1)

    def table(self) -> None:
        """The memory of a table over one long document."""
        made = work("table", text=str(self.text), store=str(self.place / "one"))
        peak = made["peak_bytes"] / 1e9
        self.add("table over one document of 1.1 MB, gigabytes of memory", "nothing", [peak], 0.5)

    def served(self, rounds: int) -> None:
        """Search by dense vectors in a server that is warm."""
        store = str(self.place / "dense")
        options = ("--encoder", "dense", "--model", str(encoder_folder()), "--tokenizer", "encoder")
        command_seconds("index", "build", "--source", str(self.selection), "--store", store, *options)
        command = [sys.executable, "-m", "retentive", "index", "serve", "--store", store, "--port", str(_PORT)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _ask("is anybody there", until=time.monotonic() + 120)
            times: list[float] = []
            commands: list[tuple[float, float]] = []
            for turn in range(rounds):
                query, begin = f"assignment expressions and the walrus operator {turn}", time.perf_counter()
                _ask(query)
                times.append(time.perf_counter() - begin)
                commands.append(command_seconds("index", "search", query, "--server", f"http://127.0.0.1:{_PORT}"))
        finally:
            server.terminate()
            server.wait()
        self.add("dense search through a warm server, seconds", "a clock", times, None)
        self.add("the same from the command line, seconds", "a clock", [seconds for _, seconds in commands], 0.5)
        self.add("processor seconds of that command", "a clock", [used for used, _ in commands], None)

    def million(self, queries: Path, copies: int) -> None:
        """The same documents, again and again with edits."""
        store = self.place / "million"
        made = work("build", text=str(self.text), store=str(store), copies=copies)
        found = work("search", store=str(store), queries=str(queries))
        self.facts |= {"million": made, "million search": found}
        name = f"{made['chunks']:,} chunks"
        self.add(f"{name}: building, processor seconds", "a clock", [made["used"]], None)
        self.add(f"{name}: building, gigabytes of memory", "nothing", [made["peak_bytes"] / 1e9], None)
        for part in ("p50", "p99"):
            self.add(f"{name}: search, {part} in seconds", "a clock", [found[part]], None)
        self.add(f"{name}: search, gigabytes of memory", "nothing", [found["peak_bytes"] / 1e9], None)


def _ask(query: str, until: float = 0.0) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{_PORT}/v1/search",
        json.dumps({"query": query, "k": 5}).encode(),
        {"Content-Type": "application/json"},
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                assert json.load(answer)
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def table_of(rows: Sequence[Row]) -> str:
    """The figures as a Markdown table."""
    lines = list(TABLE_HEAD[1:])
    for row in rows:
        ratio, sign = row.ratio, "" if row.target is None else f"at {row.limit} {row.target:g}"
        spread = f" ({ratio.lower_quartile:.3g} to {ratio.upper_quartile:.3g})" if ratio.rounds > 1 else ""
        lines.append(f"| {row.what} | {row.against} | {sign} | {ratio.median:.3g}{spread} | {row.verdict} |")
    return "\n".join(lines)


def main() -> None:
    """Take the figures, write them and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a .tar.gz of text files, such as the PEPs")
    parser.add_argument("--against", type=Path, help="a checkout of an earlier version, for building by words")
    parser.add_argument("--files", type=int, default=10_000, help="files of the folder that is synced (default: 10000)")
    parser.add_argument("--copies", type=int, default=7, help="of the corpus; 7 of the PEPs are a million chunks")
    parser.add_argument("--hex-megabytes", type=int, default=20, help="a document of hex (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench", help="folder of the results")
    arguments = parser.parse_args()
    place = arguments.output / "store_figures-files"
    shutil.rmtree(place, ignore_errors=True)
    text, selection = unpack(arguments.corpus, place, FULL)
    figures = Figures(text, selection, place)
    queries = figures.queries(200)
    figures.sync(arguments.files, arguments.rounds)
    store = figures.build(arguments.against, arguments.rounds)
    figures.search(store, queries, arguments.against, arguments.rounds)
    figures.table()
    figures.hexadecimal(arguments.hex_megabytes)
    figures.served(4 * arguments.rounds)
    figures.million(queries, arguments.copies)
    rows = [row.to_json() for row in figures.rows]
    (arguments.output / "store_figures.json").write_text(json.dumps({"rows": rows, "facts": figures.facts}, indent=1))
    (arguments.output / "store_figures.md").write_text(table_of(figures.rows) + "\n")
    print(table_of(figures.rows))


if __name__ == "__main__":
    main()
