import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retentive.retrieval import LocalEngine
from retentive.retrieval.engines.engine import Engine

PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from retentive.retrieval import LocalEngine
from retrieval.engines.test_engine import slowly
if __name__ == "__main__":
    for process in LocalEngine(2).map(slowly, range(10_000)):
        print(process, flush=True)
"""


def slowly(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def square(number: int) -> int:
    if number == 7:
        raise ValueError("7 cannot be squared")
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_of_jobs_and_errors_are_raised_here(workers: int):
    engine = LocalEngine(workers)
    assert isinstance(engine, Engine)
    assert list(engine.map(square, iter(range(5)))) == [0, 1, 4, 9, 16]
    assert list(engine.map(square, [])) == []
    with pytest.raises(ValueError, match="7 cannot be squared"):
        list(engine.map(square, range(9)))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_when_the_process_that_gives_jobs_is_killed(tmp_path: Path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        workers: set[int] = set()
        while len(workers) < 2:
            workers.add(int(parent.stdout.readline()))
        assert all(map(is_running, workers))
        parent.kill()
    deadline = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def test_more_workers_than_the_cores_can_serve_are_refused():
    with pytest.raises(ValueError, match=r"workers must be at most \d+ processes .*, but is 100,000; more would only"):
        LocalEngine(100_000)
