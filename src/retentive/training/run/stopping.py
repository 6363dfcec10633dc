"""Ctrl-C and a scheduler's SIGTERM: finish the step, write a checkpoint and exit."""

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether a signal has asked to stop.

    Attributes:
        made: True from the first signal on.
    """

    made: bool = False


@contextmanager
def stop_on_signal() -> Generator[StopRequest]:
    """Turn the first Ctrl-C, and any SIGTERM, into a request; a second Ctrl-C interrupts at once, as usual.

    Elsewhere than in the main thread, where signals cannot be caught, the request is never made.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, _: FrameType | None) -> None:
        if request.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request.made:
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        request.made = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
