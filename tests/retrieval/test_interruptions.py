"""SIGKILL at random points of every stage, full disks, and what is left after them."""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from retentive.files import is_temporary, temporary_name
from retentive.retrieval import Datastore, LocalEngine
from retentive.retrieval.blocks.block import read_block
from retentive.retrieval.verify import verify_store
from retrieval.interrupted_builds import ENCODER, STAGES, build, start
from retrieval.texts import contents, make_documents, snapshot


@dataclass(frozen=True)
class Stage:
    """What an uninterrupted build needed for one stage."""

    jobs: int
    seconds: float


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted build, in another process: its files and its stages."""
    folder = tmp_path_factory.mktemp("finished") / "s"
    process, pipe = start(folder)
    told = []
    while not told or told[-1][0] != "end":
        told.append((pipe.recv(), time.monotonic()))
    process.join()
    begins = [(name, place, at) for place, (name, at) in enumerate(told) if name != "job"]
    stages = {name: Stage(after - place - 1, end - at) for (name, place, at), (_, after, end) in pairwise(begins)}
    assert list(stages) == STAGES
    return contents(folder), stages


@pytest.fixture(scope="module")
def at_stage(tmp_path_factory, finished):
    """Folders in which all stages before one are done, made by killing a build when it begins."""
    made: dict[str, Path] = {}

    def give(stage):
        if stage not in made:
            made[stage] = tmp_path_factory.mktemp("before") / stage
            process, pipe = start(made[stage])
            while pipe.recv() != stage:
                pass
            process.kill()
            process.join()
        return made[stage]

    return give


def kill_and_resume(folder, stage, jobs, seconds, whole):
    """Kill a build after some jobs of a stage and some time; resume it; return how many files the kill left finished.

    Jobs are counted, not only time: how fast the other process runs depends on what else the machine does.
    """
    process, pipe = start(folder)
    while pipe.recv() != stage:
        pass
    for _ in range(jobs):
        assert pipe.recv() == "job"
    time.sleep(seconds)
    process.kill()  # SIGKILL; a build that has come to its end by now was killed after its last block
    process.join()
    read_block.cache_clear()
    left = {name: entry for name, entry in snapshot(folder).items() if not is_temporary(Path(name))}
    left = {name: entry for name, entry in left.items() if not any(map(is_temporary, Path(name).parents))}
    build(folder)
    after = snapshot(folder)
    assert {name: entry[2] for name, entry in after.items()} == whole
    # Shards are only needed until they are merged; the file that names the version is replaced.
    kept = {name for name in left if not name.startswith(("shards/", "current.json"))}
    assert {name: after[name][:2] for name in kept} == {name: left[name][:2] for name in kept}
    assert verify_store(folder) == []
    return len(kept)


def kill_often(tmp_path, stage, finished, at_stage, times):
    whole, stages = finished
    chance = random.Random(f"{stage} {times}")
    counts = set()
    for number in range(times):
        folder = tmp_path / str(number)
        shutil.copytree(at_stage(stage), folder)
        jobs = chance.randint(0, stages[stage].jobs)
        # The stage's last part, as the merging of shards, begins when all jobs are done.
        seconds = chance.uniform(0, stages[stage].seconds / (1 if jobs == stages[stage].jobs else stages[stage].jobs))
        counts.add(kill_and_resume(folder, stage, jobs, seconds, whole))
        shutil.rmtree(folder)
    return counts


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_build_resumes_to_the_same_bytes(tmp_path, stage, finished, at_stage):
    kill_often(tmp_path, stage, finished, at_stage, 2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_twenty_kills_of_a_stage_resume_to_the_same_bytes(tmp_path, stage, finished, at_stage):
    counts = kill_often(tmp_path, stage, finished, at_stage, 20)
    if stage not in ("SegmentTask", "ShardTask"):  # these have few blocks
        assert len(counts) > 3, "the kills must fall between different blocks"


FULL = """
import resource, signal, sys
from retrieval.interrupted_builds import build
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
build(Path(sys.argv[1]))
"""


def run_with_limit(folder, file_bytes):
    """Build in a process whose files may not be longer than that: the error of a full disk, from the system itself."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.run(
        [sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, env=environment, preexec_fn=limit
    )


def test_a_full_disk_is_told_with_the_path_and_the_build_goes_on_later(tmp_path, finished):
    folder = tmp_path / "s"
    run = run_with_limit(folder, 2000)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert "while writing (cure: free some space" in last
    assert "files that were finished before are whole" in last
    assert str(folder) in last
    assert not any(is_temporary(path) for path in folder.rglob("*"))
    left = snapshot(folder)
    build(folder)
    assert contents(folder) == finished[0]
    after = snapshot(folder)
    assert {name: after[name][:2] for name in left} == {name: entry[:2] for name, entry in left.items()}


class LosingEngine:
    """An engine one of whose workers is killed in every stage, while it writes a file; another does its job again."""

    def __init__(self, folder):
        self.folder, self.left = folder, []

    def map(self, task, jobs):
        for number, result in enumerate(LocalEngine().map(task, jobs)):
            if number == 0:
                for kind in [path for path in self.folder.iterdir() if path.is_dir()]:
                    self.left.append(temporary_name(kind / "block.safetensors"))
                    self.left[-1].write_bytes(b"half of")
            yield result


def test_nothing_is_left_of_workers_that_were_lost(tmp_path, finished):
    folder = tmp_path / "s"
    engine = LosingEngine(folder)
    changes = {
        "build": lambda: build(folder, engine),
        "add": lambda: Datastore.open(folder, encoder=ENCODER).add([("new", "zebra " * 90)], engine=engine),
        "sync": lambda: Datastore.open(folder, encoder=ENCODER).sync(make_documents(20, words=41), engine=engine),
        "neighbours": lambda: Datastore.open(folder, encoder=ENCODER).build_neighbours(engine=engine),
        "reindex": lambda: Datastore.open(folder, encoder=ENCODER).reindex(engine=engine),
    }
    for name, change in changes.items():
        met = len(engine.left)
        change()
        assert len(engine.left) > met, name
        assert verify_store(folder) == [], name
        assert not any(is_temporary(path) for path in folder.rglob("*")), name
        assert name != "build" or contents(folder) == finished[0]


def test_a_source_that_fails_leaves_what_is_finished(tmp_path):
    documents = make_documents(20)

    def failing():
        yield from documents[:15]
        raise OSError(5, "Input/output error", "folder/15.txt")

    with pytest.raises(OSError, match=r"folder/15.txt"):
        Datastore.build(failing(), tmp_path / "s", block_bytes=600)
    left = snapshot(tmp_path / "s")
    assert len(left) >= 3
    store = Datastore.build(documents, tmp_path / "s", block_bytes=600)
    assert store.report.kept["chunks"] == len([name for name in left if name.startswith("chunks/")])


def test_a_bad_document_stops_with_its_name_or_is_left_out(tmp_path):
    documents = [*make_documents(5), ("broken/half.txt", "fine until \udc80 here"), ("last", "zebra")]
    with pytest.raises(
        ValueError, match=r"document 'broken/half.txt' has half a surrogate pair \(U\+DC80 at character 11\)"
    ):
        Datastore.build(documents, tmp_path / "s")
    store = Datastore.build(documents, tmp_path / "s", on_error="skip")
    assert len(store.report.skipped) == 1
    assert "'broken/half.txt'" in store.report.skipped[0]
    assert store.search("zebra").ids[0, 0] >= 0
    with pytest.raises(ValueError, match="on_error must be stop or skip, but is 'ignore'"):
        Datastore.build(documents, tmp_path / "s", on_error="ignore")


def test_one_huge_line_is_one_document(tmp_path):
    store = Datastore.build([("huge", "word " * 400_000), ("b", "zebra")], tmp_path / "s", chunk_size=64)
    assert len(store) == 400_000 * 5 // 64 + 1
    assert store.search("zebra").ids[0, 0] == len(store) - 1
