"""Where the work on blocks is done: in this process, or in several beside it (or on Ray, see `ray_engine`)."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Engine(Protocol):
    """Does one task on many jobs.

    A task is a pure function of its job that leaves its result on disk as an immutable block, so doing a job twice,
    anywhere, changes nothing; that is all that retries and several machines need.
    """

    def map(self, task: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Results in the order of the jobs. Jobs are taken as they are needed, not all at once."""
        ...


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """This machine.

    Attributes:
        workers: Processes. With 1 everything is done in this one, which needs no start-up.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1 process, but is {self.workers}.")

    def map(self, task: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Results in the order of the jobs."""
        if self.workers == 1:
            yield from map(task, jobs)
            return
        # Spawned, not forked: a fork would inherit the store's lock, and threads of the libraries in any state.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, context, _take_task, (task,)) as pool:
            waiting: deque[Future[Any]] = deque()
            for job in jobs:
                waiting.append(pool.submit(_do, job))
                if len(waiting) >= 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


_TASK: list[Callable[..., object]] = []


def _take_task(task: Callable[..., object]) -> None:
    _TASK[:] = [task]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the process that gives jobs has ended, be it by SIGKILL; otherwise workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: object) -> object:
    return _TASK[0](job)
