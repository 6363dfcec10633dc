"""Stages on a local Ray cluster of two worker nodes: the same bytes as without it, also when workers are lost."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from retentive.cli.main import main
from retentive.retrieval.engines.ray_engine import RayEngine, TaskActor
from retrieval.interrupted_builds import STAGES, build
from retrieval.texts import contents


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without cores and two nodes of one core each, as processes of this machine."""
    small = {"object_store_memory": 100 << 20, "include_dashboard": False}
    # On a busy machine a node answers late, which is not to be taken for its end; one that has ended refuses at once.
    patient = {
        "health_check_timeout_ms": 60_000,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 5,
    }
    with pytest.MonkeyPatch.context() as patch:
        # Where the tests' own modules are found: workers start with the environment of their node.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": patient, **small})
        # Joined while the head is alone: of several nodes with one address Ray takes any, and the test kills one.
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        for _ in range(2):
            cluster.add_node(num_cpus=1, **small)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def workers_of(cluster: Cluster) -> list[int]:
    """Process ids of this cluster's actors."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found: list[int] = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                title = (place / "cmdline").read_text()
            except (OSError, ValueError):  # it has ended
                continue
            if parent in raylets and TaskActor.__name__ in title:
                found.append(int(place.name))
    return found


def square(number: int) -> tuple[int, int]:
    if number == 99:
        raise ValueError("99 cannot be squared")
    return number * number, os.getpid()


def test_results_keep_the_order_of_jobs_and_all_workers_work(cluster: Cluster):
    found = list(RayEngine(workers=2).map(square, iter(range(30))))
    assert [result for result, _ in found] == [number * number for number in range(30)]
    assert len({process for _, process in found} - {os.getpid()}) == 2
    assert list(RayEngine(workers=1).map(square, [])) == []


def test_what_a_job_raises_is_raised_here(cluster: Cluster):
    results = RayEngine(workers=2).map(square, range(95, 105))
    assert [next(results)[0] for _ in range(4)] == [number * number for number in range(95, 99)]
    with pytest.raises(ValueError, match="99 cannot be squared"):
        next(results)
    assert len(list(RayEngine(workers=2).map(square, range(9)))) == 9


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("local") / "s"
    build(folder)
    return contents(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_makes_the_same_bytes(
    tmp_path: Path, cluster: Cluster, expected: dict[str, bytes], workers: int
):
    build(tmp_path / "s", RayEngine(workers=workers))
    assert contents(tmp_path / "s") == expected


def test_the_command_line_builds_on_a_cluster(tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    for number in range(3):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{number}.txt").write_text(f"document {number} about zebras " * 30)
    for name, engine in (("here", ["local"]), ("there", ["ray", "--address", cluster.address])):
        folder = tmp_path / name
        options = ["--table=true", "--block-bytes=500", "--engine", *engine]
        main(["index", "build", "--source", str(tmp_path / "text"), "--store", str(folder), *options])
    assert "blocks made: 3 chunks, 1 lexical" in capsys.readouterr().out
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


class KillingEngine:
    """Ray, and a harm that is done in the middle of stages."""

    def __init__(self, stages: list[str], harm: Callable[[], object]) -> None:
        self.stages = stages
        self.harm = harm
        self.harmed: list[str] = []

    def map(self, task: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        name = type(task).__name__
        for number, result in enumerate(RayEngine(workers=2).map(task, jobs)):
            yield result
            if number == 0 and name in self.stages:
                self.harm()
                self.harmed.append(name)


def test_a_worker_that_is_killed_changes_nothing(tmp_path: Path, cluster: Cluster, expected: dict[str, bytes]):
    def kill_one() -> None:
        os.kill(workers_of(cluster)[0], signal.SIGKILL)

    engine = KillingEngine(STAGES, kill_one)
    build(tmp_path / "s", engine)
    assert engine.harmed == STAGES
    assert contents(tmp_path / "s") == expected


def test_a_machine_that_is_lost_changes_nothing(tmp_path: Path, cluster: Cluster, expected: dict[str, bytes]):
    def lose_one() -> None:
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    engine = KillingEngine(["NeighbourTask"], lose_one)
    build(tmp_path / "s", engine)
    assert engine.harmed == ["NeighbourTask"]
    assert contents(tmp_path / "s") == expected


def test_workers_that_are_lost_too_often_are_told(cluster: Cluster):
    with pytest.raises(OSError, match=r"a worker was lost more than 0 times .*: finished blocks are kept"):
        list(RayEngine(workers=1, max_retries=0).map(end_itself, [1]))


def end_itself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be at least 1 actor, but is 0"),
        ({"gpus_per_worker": -0.5}, r"gpus_per_worker must be at least 0, but is -0.5"),
        ({"max_retries": -1}, "max_retries must be at least 0, but is -1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        RayEngine(**options)
