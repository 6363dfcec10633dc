"""How far a long piece of work is, on standard error."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

_SECONDS_BEFORE_FIRST = 2.0
_SECONDS_BETWEEN_LINES = 10.0


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
            self._bar = tqdm(desc=label, total=total, unit=unit, unit_scale=True, delay=_SECONDS_BEFORE_FIRST)

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
        if now - self._shown >= _SECONDS_BETWEEN_LINES and self._done > 0:
            self._shown = now
            left = (now - self._begin) * max(self._total - self._done, 0) / self._done
            share = f"{self._done / self._total:.0%} of {self._total:,} {self._unit}"
            print(f"{self._label}: {share}, about {left:,.0f} s left", file=sys.stderr, flush=True)
