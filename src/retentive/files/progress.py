"""Progress on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BEFORE_FIRST = 2.0
SECONDS_BETWEEN_LINES = 10.0


def say(line: str) -> None:
    """Print a line to standard error; results go to standard output, this does not.

    Of processes that ``torchrun`` started, which all come by the same lines, the first prints them.
    """
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


class ProgressBar:
    """A bar with the time left on a terminal, a plain line every ten seconds elsewhere.

    Work of less than two seconds shows nothing.

    Args:
        label: What is being done, as in ``tokenize``.
        total: Number of units in all; ``None`` if it is not known, then the rate is shown without the time left.
        unit: Their name; a bar shows large numbers with k and M.
        done: Units done by an earlier process.
        shown: Whether to show anything; of several processes only one does.
    """

    def __init__(self, label: str, *, total: int | None, unit: str, done: int = 0, shown: bool = True) -> None:
        self._label, self._total, self._unit, self._shown = label, total, unit, shown
        self._first = self._done = done
        self._begin = self._last_line = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(
                desc=label, initial=done, total=total, unit=f" {unit}", unit_scale=True, delay=SECONDS_BEFORE_FIRST
            )

    def __enter__(self) -> "ProgressBar":
        """Return the bar itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar, leaving it on the screen."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int, note: str = "") -> None:
        """Count further units as done, and show them if it is time to.

        Args:
            count: Number of units.
            note: What else to show, such as the loss.
        """
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES and self._done > self._first:
            self._last_line = now
            line = progress_line(
                self._label, self._done, self._total, self._unit, now - self._begin, first=self._first, note=note
            )
            self.say(line)

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif self._shown:
            say(line)


def with_progress(
    items: Iterable[Item], label: str, *, total: int | None, unit: str, count: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Pass items on and show a `ProgressBar`.

    Args:
        items: What is worked on.
        label: What is done, as in ``encode``.
        total: Number of units in all; ``None`` if it is not known.
        unit: Their name.
        count: Number of units in one item; called after the consumer is done with it.
    """
    with ProgressBar(label, total=total, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance(count(item))


@contextmanager
def still_working(label: str) -> Generator[None]:
    """Print a line every ten seconds, with the time so far, while one call does all of a stage.

    Args:
        label: What is done, as in ``train the index on 65,536 vectors``.
    """
    begin, ended = time.monotonic(), threading.Event()

    def tell() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES):
            say(f"{label}: {time.monotonic() - begin:,.0f} s so far")

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def progress_line(
    label: str, done: int, total: int | None, unit: str, seconds: float, *, first: int = 0, note: str = ""
) -> str:
    """One line of progress: ``encode: 3,000 of 9,000 chunks (33%), 100 chunks/s, about 60 s left``.

    Args:
        label: What is being done.
        done: Units done.
        total: Units in all; ``None`` if it is not known.
        unit: Their name.
        seconds: Time since the work began.
        first: Units that were done before that.
        note: Added at the end.
    """
    rate = (done - first) / max(seconds, 1e-9)
    speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    end = f", {note}" if note else ""
    if total is None:
        return f"{label}: {done:,} {unit}, {speed} {unit}/s{end}"
    left = max(total - done, 0) / rate
    share = f"{done:,} of {total:,} {unit} ({done / max(total, 1):.0%})"
    return f"{label}: {share}, {speed} {unit}/s, about {left:,.0f} s left{end}"
