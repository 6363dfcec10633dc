"""Builds in a process of their own that say which stage they are in, so that they can be killed there."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from retentive.retrieval import Datastore, HybridEncoder, IndexConfig, LocalEngine, NeighbourConfig
from retrieval.texts import HashedWords, make_documents

STAGES = ["ChunkTask", "SegmentTask", "EncodeTask", "ShardTask", "SignatureTask", "NeighbourTask"]
"""Tasks in the order in which a build does them. The time until the next begins counts as the stage's own, so the
stage of shards has the merging and measuring of the index in it."""

ENCODER = HybridEncoder(HashedWords())
INDEX = IndexConfig(factory="IVF4,SQ8", rows_per_shard=30, recall_sample=50)
NEIGHBOURS = NeighbourConfig(k=2, near_duplicates=0.8)


class TellingEngine:
    """The local engine, which says through a pipe when a stage begins and when a job of it is done."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def map(self, task: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        self.pipe.send(type(task).__name__)
        for result in LocalEngine().map(task, jobs):
            self.pipe.send("job")
            yield result


def build(folder: Path, engine: Any = None) -> Datastore:
    store = Datastore.build(
        make_documents(30, words=40),
        folder,
        chunk_size=32,
        block_bytes=600,
        encoder=ENCODER,
        index=INDEX,
        engine=engine,
    )
    store.build_neighbours(NEIGHBOURS, engine=engine)
    return store


def run(folder: Path, pipe: Connection) -> None:
    build(folder, TellingEngine(pipe))
    pipe.send("end")


def start(folder: Path) -> tuple[BaseProcess, Connection]:
    """Start a build in a process that was forked from a clean one, which costs no imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retrieval.interrupted_builds"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(folder, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours
