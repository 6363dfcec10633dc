"""Where the work on blocks is done: in this process, or in several beside it (or on Ray, see `ray_engine`)."""

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
        others = set(multiprocessing.active_children())
        with ProcessPoolExecutor(self.workers, context, _take_task, (task,)) as pool:
            try:
                waiting: deque[Future[Any]] = deque()
                for job in jobs:
                    with _interrupts_held_back():
                        waiting.append(pool.submit(_do, job))
                    if len(waiting) >= 2 * self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, Exception):  # somebody wants it to end now; blocks are whole or absent
                    for worker in set(multiprocessing.active_children()) - others:
                        worker.terminate()
                raise


@contextmanager
def _interrupts_held_back() -> Generator[None]:
    """Start processes that Ctrl-C does not reach: a terminal sends it to all, and each would print where it was.

    It reaches this process when the block ends, and this one ends the others.
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
    """End when the process that gives jobs has ended, be it by SIGKILL; otherwise workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: object) -> object:
    return _TASK[0](job)
