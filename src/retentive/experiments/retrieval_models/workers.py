"""Processes that train side by side, and end together."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import Any

from retentive.retrieval.engines.engine import interrupts_held_back

_STOPPED = threading.Event()


@contextmanager
def side_by_side(count: int) -> Generator[Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]]:
    """Yield a function that does a job with each of some arguments, in processes of its own; results come in order.

    When this process is interrupted or ends, however it ends, they stop as on Ctrl-C, which a terminal sends to all.

    Args:
        count: How many processes there are.
    """
    others = set(active_children())
    with ProcessPoolExecutor(count, get_context("spawn"), _watch_parent) as pool:

        def do_all(job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
            with interrupts_held_back():  # while processes start: each would print a traceback
                return pool.map(_do, [job] * len(arguments), arguments)

        try:
            yield do_all
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(active_children()) - others:
                worker.terminate()  # which training takes as Ctrl-C, if that came to its parent alone
            raise


def _do(job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Do a job in a process that began with interrupts held back: they reach the job, and no process that waits."""
    if _STOPPED.is_set():  # this job was still waiting when another was stopped
        raise KeyboardInterrupt
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return job(*arguments)
    except KeyboardInterrupt:
        _STOPPED.set()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _watch_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Stop when the parent process has ended, even by SIGKILL; otherwise training would go on for hours.

    As on Ctrl-C, training finishes its step and keeps a checkpoint.
    """
    parent = parent_process()
    if parent is None:
        return
    parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)  # a second signal ends a process that is not in training
        time.sleep(1)
