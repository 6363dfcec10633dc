"""The worker's side of an interleaved measurement: prepare named works, then do one repetition whenever asked.

Standard library only, for it runs in the virtual environment of every contestant. A worker module defines
``works(**options)``, which returns the works by name; a work takes its arguments, prepares everything and returns a
`Work`. The coordinator (`benchmarks.racing.interleave`) speaks to it in lines of JSON over standard input and output:

``{"do": "load", "module": ..., "options": {...}}``
    Import the module and build its works.
``{"do": "prepare", "label": ..., "work": ..., "arguments": {...}}``
    Prepare a work under a label; answers with its units and facts.
``{"do": "repeat", "label": ...}``
    One repetition; answers with its seconds.
``{"do": "peak", "label": ...}``
    One repetition; answers with the bytes of resident memory it needed above what was resident before.
``{"do": "release", "label": ...}``
    Forget a prepared work.

Every answer is an object; one with ``error`` carries the traceback of what went wrong.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A piece of work, ready to be repeated.

    Attributes:
        run: One repetition. It must do the same work each time it is called.
        units: How many tokens, steps or operations one repetition does; times are compared per unit.
        facts: Numbers known without a clock, such as the bytes of a state.
    """

    run: Callable[[], object]
    units: float = 1
    facts: Mapping[str, float] = field(default_factory=dict)


class Worker:
    """Holds the works of one contestant and answers one message after the other."""

    def __init__(self) -> None:
        self._works: Mapping[str, Callable[..., Work]] = {}
        self._prepared: dict[str, Work] = {}

    def answer(self, message: Message) -> Message:
        """Do what a message asks; whatever goes wrong is an answer too."""
        try:
            return getattr(self, f"_{message['do']}")(message)
        except Exception:
            return {"error": traceback.format_exc()}

    def _load(self, message: Message) -> Message:
        self._works = importlib.import_module(message["module"]).works(**message["options"])
        return {"works": sorted(self._works)}

    def _prepare(self, message: Message) -> Message:
        name = message["work"]
        if name not in self._works:
            raise ValueError(f"work must be one of {sorted(self._works)}, but is {name!r}.")
        work = self._works[name](**message["arguments"])
        self._prepared[message["label"]] = work
        gc.freeze()  # a collection before each repetition then need not look at all of torch
        return {"units": work.units, "facts": dict(work.facts)}

    def _repeat(self, message: Message) -> Message:
        run = self._prepared[message["label"]].run
        gc.collect()
        start = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - start}

    def _peak(self, message: Message) -> Message:
        run = self._prepared[message["label"]].run
        gc.collect()
        before = start_of_peak()
        run()
        return {"bytes": peak_resident_bytes() - before}

    def _release(self, message: Message) -> Message:
        del self._prepared[message["label"]]
        gc.unfreeze()
        gc.collect()
        return {}


def start_of_peak() -> int:
    """Forget the process's peak of resident memory so far and return its resident bytes.

    On Linux the kernel resets its high-water mark (``VmHWM``). Elsewhere the mark cannot be reset and is itself what is
    returned, so a peak lower than one during loading goes unseen.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    else:
        return _status_bytes("VmRSS")
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most memory that was resident at once, since `start_of_peak` where the system can forget."""
    if Path("/proc/self/status").exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others kibibytes


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status must have a line {name}, but has none.")


def main() -> None:
    """Answer the coordinator until it closes the pipe."""
    # What a library prints belongs on the error stream: the pipe carries answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)
