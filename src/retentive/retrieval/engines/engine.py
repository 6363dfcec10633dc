"""The engine protocol, and the local engine: this process, or several worker processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from retentive.config_types import check_processes, check_types

Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Engine(Protocol):
    """Runs one task on many jobs.

    A task is a pure function of its job and writes its result to disk as an immutable block. Running a job twice, on
    any machine, changes nothing, so jobs can be retried and spread over machines.
    """

    def map(self, task: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield results in the order of the jobs; jobs are consumed as they are needed, not all at once."""
        ...


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Runs jobs on this machine.

    Attributes:
        workers: Number of processes. With 1 everything runs in this process, without start-up time.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1 process, but is {self.workers}.")
        check_processes("workers", self.workers)

    def map(self, task: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield results in the order of the jobs."""
        if self.workers == 1:
            yield from map(task, jobs)
            return
        # Spawned, not forked: a fork would inherit the store's lock and the libraries' threads in an undefined state.
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        with ProcessPoolExecutor(self.workers, context, _take_task, (task,)) as pool:
            try:
                waiting: deque[Future[Any]] = deque()
                for job in jobs:
                    with interrupts_held_back():
                        waiting.append(pool.submit(_do, job))
                    if len(waiting) >= 2 * self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                # The user interrupts. Blocks are whole or absent, so workers can be killed.
                if not isinstance(error, Exception):
                    for worker in set(multiprocessing.active_children()) - others:
                        worker.terminate()
                raise


@contextmanager
def interrupts_held_back() -> Generator[None]:
    """Start worker processes that ignore Ctrl-C, which a terminal sends to all: each would print a traceback.

    This process receives it when the ``with`` block ends, and stops the workers.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_TASK: list[Callable[..., object]] = []


def _take_task(task: Callable[..., object]) -> None:
    _TASK[:] = [task]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent has ended, even by SIGKILL; otherwise it would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: object) -> object:
    return _TASK[0](job)
