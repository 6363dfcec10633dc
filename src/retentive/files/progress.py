"""Progress on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

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
    """Print a line to standard error; results go to standard output, this does not."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """A bar with the time left on a terminal, a plain line every ten seconds elsewhere.

    Work of less than two seconds shows nothing.

    Args:
        label: What is being done, as in ``tokenize``.
        total: Number of units in all; ``None`` if it is not known, then the rate is shown without the time left.
        unit: Their name; a bar shows large numbers with k and M.
    """

    def __init__(self, label: str, *, total: int | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._begin = self._shown = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(desc=label, total=total, unit=f" {unit}", unit_scale=True, delay=SECONDS_BEFORE_FIRST)

    def __enter__(self) -> "Progress":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; the bar stays on the screen."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """Count further units as done, and show it if it is time to."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._shown >= SECONDS_BETWEEN_LINES and self._done > 0:
            self._shown = now
            say(progress_line(self._label, self._done, self._total, self._unit, now - self._begin))


def with_progress(
    items: Iterable[Item], label: str, *, total: int | None, unit: str, count: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Pass items on and show `Progress`.

    Args:
        items: What is worked on.
        label: What is done, as in ``encode``.
        total: Number of units in all; ``None`` if it is not known.
        unit: Their name.
        count: Number of units in one item; called after the consumer is done with it.
    """
    with Progress(label, total=total, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance(count(item))


def progress_line(label: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    """One line of progress: ``encode: 3,000 of 9,000 chunks (33%), 100 chunks/s, about 60 s left``."""
    rate = done / max(seconds, 1e-9)
    if total is None:
        return f"{label}: {done:,} {unit}, {rate:,.0f} {unit}/s"
    left = max(total - done, 0) / rate
    share = f"{done:,} of {total:,} {unit} ({done / max(total, 1):.0%})"
    return f"{label}: {share}, {rate:,.0f} {unit}/s, about {left:,.0f} s left"
