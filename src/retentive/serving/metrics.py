"""What the server counts, in Prometheus' format."""

import math
import time
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WINDOW_SECONDS = 10.0


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "retentive_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.rows = Gauge("retentive_rows", "Texts that are being written.", registry=registry)
        self.waiting = Gauge("retentive_waiting", "Texts that wait for a place.", registry=registry)
        self.new_tokens = Counter("retentive_new_tokens", "Tokens that were written.", registry=registry)
        self.prompt_tokens = Counter("retentive_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.cached_tokens = Counter(
            "retentive_cached_tokens", "Tokens of prompts that were not read again.", registry=registry
        )
        self.first_token = Histogram(
            "retentive_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, registry=registry
        )
        self.tokens_per_second = Gauge(
            "retentive_tokens_per_second", "Tokens written in the last ten seconds, a second.", registry=registry
        )
        self.cache_hits = Gauge("retentive_cache_hits", "Prompts that began with a prefix state.", registry=registry)
        self.cache_misses = Gauge("retentive_cache_misses", "Prompts that began with none.", registry=registry)
        self.cache_bytes = Gauge("retentive_cache_bytes", "Bytes of prefix states.", registry=registry)
        self.states = Gauge("retentive_states", "Stored states.", registry=registry)
        self.state_bytes = Gauge("retentive_state_bytes", "Bytes of stored states.", registry=registry)
        self._recent: deque[tuple[float, int]] = deque()
        self._row_seconds = 1.0
        self.tokens_per_second.set_function(self._speed)

    def count_tokens(self, count: int) -> None:
        """Note tokens that were written just now."""
        now = time.monotonic()
        self.new_tokens.inc(count)
        self._recent.append((now, count))
        while self._recent and self._recent[0][0] < now - _WINDOW_SECONDS:
            self._recent.popleft()

    def count_prompt(self, tokens: int, cached: int) -> None:
        """Note the prompt of a row that has ended: its tokens, and how many of them were not read again."""
        self.prompt_tokens.inc(tokens)
        self.cached_tokens.inc(cached)

    def count_seconds(self, seconds: float) -> None:
        """Note how long an answer took."""
        self._row_seconds += 0.2 * (seconds - self._row_seconds)

    def seconds_per_row(self) -> int:
        """About how long a place is taken: from 1 second to a minute."""
        return min(60, max(1, math.ceil(self._row_seconds)))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _speed(self) -> float:
        begin = time.monotonic() - _WINDOW_SECONDS
        return sum(count for at, count in list(self._recent) if at >= begin) / _WINDOW_SECONDS
