"""A worker whose works are easy to tell apart; run by `test_interleave.py` in processes of its own."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.racing.worker import Work


def works(*, journal: str, name: str) -> Mapping[str, Callable[..., Work]]:
    def note(what: str) -> None:
        with Path(journal).open("a") as file:
            file.write(f"{name} {what}\n")

    def sleep(milliseconds: float) -> Work:
        note(f"prepares {milliseconds:g}")

        def run() -> None:
            note(f"starts {milliseconds:g}")
            time.sleep(milliseconds / 1000)
            note(f"ends {milliseconds:g}")

        return Work(run=run, units=10, facts={"milliseconds": milliseconds})

    def hold(mebibytes: int) -> Work:
        return Work(run=lambda: len(bytearray(os.urandom(1024) * 1024 * mebibytes)))

    def fail() -> Work:
        raise RuntimeError("no such luck")

    def vanish() -> Work:
        return Work(run=lambda: os._exit(3))

    def chatter() -> Work:
        return Work(run=lambda: print("a library that prints"))

    return {"sleep": sleep, "hold": hold, "fail": fail, "vanish": vanish, "chatter": chatter}
