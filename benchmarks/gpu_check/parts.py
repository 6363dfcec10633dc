"""Parts of a check in processes of their own."""

import importlib
import multiprocessing
import time
from collections.abc import Callable
from typing import Any


def _run_part(target: str, arguments: dict[str, Any], answer: Any) -> None:
    module, name = target.split(":")
    work: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    answer.send(work(arguments.pop("device"), **arguments))


def run_part(target: str, device: str, *, quick: bool, seconds: float) -> dict[str, Any]:
    """Run a part in a process, and return what it found; what ends it is an error."""
    begin = time.monotonic()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    # Its own limit comes first, so that it can say how far it got.
    arguments = {"device": device, "quick": quick, "seconds": seconds - 5}
    process = context.Process(target=_run_part, args=(target, arguments, theirs))
    process.start()
    theirs.close()
    found: dict[str, Any] = {}
    try:
        found = ours.recv() if ours.poll(seconds) else {"errors": [f"took more than {seconds:.0f} seconds"]}
    except EOFError:
        process.join(5)
        found = {"errors": [f"its process ended with {process.exitcode}"]}
    finally:
        process.kill()
        process.join()
    return {**found, "seconds": time.monotonic() - begin}
