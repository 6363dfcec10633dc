"""How far a stage is, on standard error: rate and time left."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BEFORE_FIRST = 2.0
SECONDS_BETWEEN_LINES = 10.0


def say(line: str) -> None:
    """Tell a person something; results go to standard output, this does not."""
    print(line, file=sys.stderr, flush=True)


def with_progress(
    items: Iterable[Item], label: str, *, total: int | None, unit: str, count: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Pass items on and show how many units of how many are done.

    A bar on a terminal, a line every ten seconds elsewhere, nothing for work of less than two seconds.

    Args:
        items: What is worked on.
        label: What is done, as in ``encode``.
        total: Units in all; ``None`` if nobody knows, then the rate is shown without the time left.
        unit: Their name.
        count: Units of one item.
    """
    if sys.stderr.isatty():
        with tqdm(desc=label, total=total, unit=f" {unit}", unit_scale=True, delay=SECONDS_BEFORE_FIRST) as bar:
            for item in items:
                yield item
                bar.update(count(item))
        return
    done, begin = 0, time.monotonic()
    shown = begin
    for item in items:
        yield item
        done += count(item)
        now = time.monotonic()
        if now - shown >= SECONDS_BETWEEN_LINES and done > 0:
            shown = now
            say(progress_line(label, done, total, unit, now - begin))


def progress_line(label: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    """One line of progress, as ``encode: 3,000 of 9,000 chunks, 100 chunks/s, about 60 s left``."""
    rate = done / max(seconds, 1e-9)
    if total is None:
        return f"{label}: {done:,} {unit}, {rate:,.0f} {unit}/s"
    left = max(total - done, 0) / rate
    return f"{label}: {done:,} of {total:,} {unit}, {rate:,.0f} {unit}/s, about {left:,.0f} s left"


class Progress:
    """A bar with the time left on a terminal, a plain line every ten seconds elsewhere.

    Work of less than two seconds shows nothing.

    Args:
        label: What is being done, as in ``tokenize``.
        total: How many units there are in all.
        unit: Their name; ``B`` is shown with kilo and mega.
    """

    def __init__(self, label: str, *, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._begin = self._shown = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(desc=label, total=total, unit=unit, unit_scale=True, delay=SECONDS_BEFORE_FIRST)

    def __enter__(self) -> "Progress":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, leaving the bar where it is."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """Say that so many more units are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._shown >= SECONDS_BETWEEN_LINES and self._done > 0:
            self._shown = now
            left = (now - self._begin) * max(self._total - self._done, 0) / self._done
            share = f"{self._done / self._total:.0%} of {self._total:,} {self._unit}"
            print(f"{self._label}: {share}, about {left:,.0f} s left", file=sys.stderr, flush=True)
