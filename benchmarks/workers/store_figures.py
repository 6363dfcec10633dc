"""Works on a datastore, each in a process of its own: ``python store_figures.py WORK '{"argument": ...}'``.

Prints JSON: what the work measured, and the processor time and the memory of the process. ``build`` runs with earlier
releases too, so all that is newer is imported where it is used.
"""

import json
import random
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from retentive.retrieval import Datastore


def build(text: str, store: str, copies: int = 1) -> dict[str, float]:
    """Documents to a store by words; further copies of them have one word in ten replaced by another of theirs."""
    paths = sorted(Path(text).rglob("*.rst"))
    begin, used = time.perf_counter(), _processor_seconds()
    made = Datastore.build(_documents(paths, copies), store)
    used, seconds = _processor_seconds() - used, time.perf_counter() - begin
    size = sum(path.stat().st_size for path in paths)
    on_disk = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file())
    chunks = sum(block.rows for block in made.manifest.chunks)
    return {"chunks": chunks, "used": used, "seconds": seconds, "text_bytes": size, "disk_bytes": on_disk}


def _documents(paths: list[Path], copies: int) -> Iterator[tuple[str, str]]:
    for copy in range(copies):
        chance = random.Random(copy)
        for path in paths:
            text = path.read_text("utf-8")
            if copy:
                words = text.split(" ")
                for place in range(0, len(words), 10):
                    words[place] = chance.choice(words)
                text = " ".join(words)
            yield f"{copy}/{path.name}", text


def passages(store: str, path: str) -> dict[str, float]:
    """The text of every chunk and the name of its document, as JSON for other packages."""
    import numpy as np

    corpus, rows = Datastore.open(store).corpus, list[dict[str, str]]()
    for document, name in corpus.names():
        chunks, text = corpus.chunks_of(document), corpus.content(document)
        begins, ends = corpus.spans(np.arange(chunks.start, chunks.stop))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            rows.append({"document": name, "text": text[begin:end].decode("utf-8", "ignore")})
    Path(path).write_text(json.dumps(rows), "utf-8")
    return {"passages": len(rows)}


def hexadecimal(store: str, megabytes: int) -> dict[str, float]:
    """One document of random hexadecimal digits, every line another word, in chunks of 1,024 tokens."""
    chance = random.Random(0)

    def documents() -> Iterator[tuple[str, str]]:
        yield "hex.txt", "\n".join(chance.randbytes(32).hex() for _ in range(megabytes * 1_000_000 // 65))

    begin = time.perf_counter()
    made = Datastore.build(documents(), store, chunk_size=1024)
    return {"chunks": len(made), "seconds": time.perf_counter() - begin}


def table(text: str, store: str) -> dict[str, float]:
    """A store of one document of 1.1 MB, and its table of neighbours."""
    from retentive.retrieval.neighbours.table import NeighbourConfig

    whole = "\n".join(path.read_text("utf-8") for path in sorted(Path(text).rglob("*.rst"))[:90])[:1_100_000]
    made = Datastore.build([("one.txt", whole)], store)
    made.build_neighbours(NeighbourConfig(k=2))
    return {"text_bytes": len(whole.encode())}


def search(store: str, queries: str, k: int = 10) -> dict[str, float]:
    """The same queries for chunks alone, and for what a person is shown of each, in turns."""
    opened, asked = Datastore.open(store), json.loads(Path(queries).read_text("utf-8"))
    answers = _answers_of(opened, k)
    answers(asked[0])
    plain, shown = list[float](), list[float]()
    for query in asked:
        plain.append(_seconds_of(lambda query=query: opened.search(query, k=k)))
        shown.append(_seconds_of(lambda query=query: answers(query)))
    return {"p50": median(plain), "p99": quantiles(plain, n=100)[98], "shown": sum(shown) / len(shown)}


def _answers_of(opened: Any, k: int) -> Any:
    if hasattr(opened, "answers"):
        return lambda query: opened.answers(query, k=k)
    from retentive.retrieval import person  # pyright: ignore - what the answers were called before

    return lambda query: person.find(opened, query, k)


def checks(store: str, queries: str, k: int = 10) -> dict[str, float]:
    """Open a store and search it, with a clock around everything that compares a checksum."""
    from retentive.retrieval.blocks import block, sealed_folder
    from retentive.retrieval.index import lexical_index

    asked, spent = json.loads(Path(queries).read_text("utf-8")), [0.0]
    with _clocked(block.hashlib, "sha256", spent), _clocked(lexical_index, "check_folder", spent):
        assert sealed_folder.check_folder is not lexical_index.check_folder
        first = _seconds_of(lambda: Datastore.open(store).answers(asked[0], k=k))
        first_spent, spent[0] = spent[0], 0.0
        opened = Datastore.open(store)
        every = _seconds_of(lambda: [opened.answers(query, k=k) for query in asked])
    return {"first": first, "first_checks": first_spent, "every": every, "every_checks": spent[0]}


@contextmanager
def _clocked(place: Any, name: str, spent: list[float]) -> Iterator[None]:
    called = getattr(place, name)

    def clocked(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return called(*arguments, **options)
        finally:
            spent[0] += time.perf_counter() - begin

    setattr(place, name, clocked)
    try:
        yield
    finally:
        setattr(place, name, called)


def _seconds_of(run: Any) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


WORKS = {
    "build": build,
    "passages": passages,
    "hexadecimal": hexadecimal,
    "table": table,
    "search": search,
    "checks": checks,
}

if __name__ == "__main__":
    measured = WORKS[sys.argv[1]](**json.loads(sys.argv[2]))
    # Of this program alone: what `resource` tells counts the one that started it too.
    status = Path("/proc/self/status").read_text("ascii")
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
    print(json.dumps({**measured, "peak_bytes": peak}))
