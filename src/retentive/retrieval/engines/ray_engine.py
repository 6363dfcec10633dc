"""The engine for a Ray cluster: actors run the jobs of one task; placement, restarts and retries are Ray's.

A task leaves its results in the store's folder, so every machine of the cluster must see that folder under the same
path. Running a job twice changes nothing, so a lost actor is restarted and its jobs repeated.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from retentive.config_types import check_processes, check_types
from retentive.retrieval.engines.engine import Job, Result

_JOBS_PER_ACTOR = 2
"""Jobs assigned to an actor at a time: one that runs and one that waits, so that the actor is never idle."""

_LARGE_TASK = 64 << 10

_SHARE_OF_CORE = 0.01


class TaskActor:
    """The actor on a worker: holds one task and runs many jobs of it."""

    def __init__(self, task: Callable[[Any], Any]) -> None:
        self._task = task

    def do(self, job: Any) -> Any:
        """Run one job."""
        return self._task(job)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """Runs jobs on a Ray cluster.

    Attributes:
        address: Address of the cluster's head, as ``host:port``; ``None`` takes the cluster that this process is
            connected to or that runs on this machine, or starts one here.
        workers: Number of actors, spread over the machines; ``None`` starts one for each core.
        gpus_per_worker: GPUs that each actor reserves, for encoding; fractions share a GPU.
        max_retries: How often a lost actor is restarted, together with its jobs.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float = 0.0
    max_retries: int = 5

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1 actor, but is {self.workers}.")
        for name in ("gpus_per_worker", "max_retries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, but is {getattr(self, name)}.")

    def map(self, task: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield results in the order of the jobs, which are consumed as they are needed.

        Raises:
            Exception: The exception that a job raised.
            ValueError: If there are far more workers than the cluster has cores.
            OSError: If workers were lost too often.
        """
        ray = connect(self.address)
        with self._actors(ray, task) as actors:
            waiting: deque[tuple[Any, int]] = deque()
            load = [0] * len(actors)
            try:
                for job in jobs:
                    if len(waiting) >= _JOBS_PER_ACTOR * len(actors):
                        yield self._oldest(ray, waiting, load)
                    idlest = load.index(min(load))
                    waiting.append((actors[idlest].do.remote(job), idlest))
                    load[idlest] += 1
                while waiting:
                    yield self._oldest(ray, waiting, load)
            finally:
                for reference, _ in waiting:  # not empty only after an error
                    ray.cancel(reference)

    def _oldest(self, ray: Any, waiting: deque[tuple[Any, int]], load: list[int]) -> Any:
        """Wait for the oldest job, so that results keep the order of jobs."""
        reference, actor = waiting.popleft()
        load[actor] -= 1
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # the job's own exception instead of Ray's wrapper
        except ray.exceptions.RayActorError as error:
            message = f"a worker was lost more than {self.max_retries} times ({str(error).splitlines()[0]})"
            raise OSError(f"{message}: finished blocks are kept; build again when the cluster is stable.") from error

    @contextmanager
    def _actors(self, ray: Any, task: Callable[[Any], Any]) -> Generator[list[Any]]:
        # A trace of a core: enough to stay off machines that are given no work, and so little that an actor finds room
        # beside others when its machine is lost. (Ray's default, a whole core until it runs, can wait for ever then.)
        options = {"num_cpus": _SHARE_OF_CORE, "num_gpus": self.gpus_per_worker, "scheduling_strategy": "SPREAD"}
        # Jobs are repeated for as long as their actor may be started again: a machine that is being missed answers
        # "unavailable" many times in a second, and counting those would give up before the actor is placed anew.
        options |= {"max_restarts": self.max_retries, "max_task_retries": -1 if self.max_retries else 0}
        made = ray.remote(TaskActor).options(**options)
        # A small task is sent with each actor; a large one, such as a tokenizer, once to each machine.
        given = task if len(ray.cloudpickle.dumps(task)) < _LARGE_TASK else ray.put(task)
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        count = self.workers or cores
        check_processes("workers", count, cores)
        actors = [made.remote(given) for _ in range(count)]
        try:
            yield actors
        finally:
            for actor in actors:
                ray.kill(actor)


def connect(address: str | None) -> Any:
    """Import Ray and connect it to a cluster.

    Raises:
        ImportError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("engine ray needs Ray: pip install 'retentive[ray]'.") from error
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False} if address is None else {}
        ray.init(address=address, configure_logging=False, **options)
    return ray
