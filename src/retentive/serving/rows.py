"""The thread in which the model runs: rows come from requests, and their tokens go back to them."""

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from retentive.checkpoints import GenerationState
from retentive.generation import Request, RequestBatch, RequestStep
from retentive.serving.errors import ApiError, too_many
from retentive.serving.metrics import Metrics

LOG = logging.getLogger("retentive.serving")

Reason = Literal["stop_token", "stop_string", "length", "cancelled", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEnd:
    """How a row ended.

    Attributes:
        reason: By its tokens, or because somebody asked, or by an error.
        state: What goes on from it; None where it has no token.
        prompt_tokens: Tokens of its prompt.
        cached_tokens: Those of them that a prefix state had read.
        new_tokens: Tokens that were written.
        error: With ``failed``.
    """

    reason: Reason
    state: GenerationState | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    error: Exception | None = None


Event = RequestStep | RowEnd


@dataclass(slots=True)
class RowGroup:
    """The rows of one HTTP request. Iterate for ``(row, event)``: the steps of each row, and its end.

    Attributes:
        requests: What was asked, by row.
        ends: How rows ended, by row.
    """

    requests: Sequence[Request]
    _thread: "ModelThread"
    ends: dict[int, RowEnd] = field(default_factory=dict[int, RowEnd])
    _events: asyncio.Queue[tuple[int, Event]] = field(default_factory=asyncio.Queue[tuple[int, Event]])
    is_given_up: bool = False

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield events until all rows have ended."""
        while len(self.ends) < len(self.requests):
            row, event = await self._events.get()
            if isinstance(event, RowEnd):
                self.ends[row] = event
            yield row, event

    def put(self, row: int, event: Event) -> None:
        """Hand over an event; called in the event loop's thread."""
        self._events.put_nowait((row, event))

    def end(self) -> None:
        """Let all rows end with what they have; their ends come as events."""
        self._thread.end(self)

    def drop(self) -> None:
        """Nobody waits for the rows any longer: they leave before the next step."""
        if not self.is_given_up:
            self.is_given_up = True
            self._thread.drop(self)


@dataclass(eq=False, slots=True)
class _Row:
    """One row, from its request to its end."""

    group: RowGroup
    index: int
    number: int | None = None  # in the batch, once it is admitted

    @property
    def request(self) -> Request:
        return self.group.requests[self.index]


class ModelThread:
    """Runs a `RequestBatch` in a thread of its own; all other methods are called in the event loop's thread.

    Args:
        make_batch: Makes an empty batch: at the start, and again if a step fails as a whole.
        metrics: What is counted.
        after_step: Called in the thread after each step.
        max_rows: Rows side by side.
        max_waiting: Rows that wait for a place; more are refused.
    """

    def __init__(
        self,
        make_batch: Callable[[], RequestBatch],
        metrics: Metrics,
        *,
        after_step: Callable[[], None],
        max_rows: int,
        max_waiting: int,
    ) -> None:
        self._make_batch, self._metrics, self._after_step = make_batch, metrics, after_step
        self._max_rows, self._max_waiting = max_rows, max_waiting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[_Row] = deque()
        self._placed: set[_Row] = set()
        # Only the thread touches these two.
        self._batch = make_batch()
        self._rows: dict[int, _Row] = {}
        self._thread = threading.Thread(target=self._run, name="retentive-model", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; events go to this loop."""
        self._loop = loop
        self._thread.start()

    async def stop(self) -> None:
        """End the thread; rows that are left are cancelled."""
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether no row runs or waits."""
        return not self._placed and not self._waiting

    def submit(self, requests: Sequence[Request]) -> RowGroup:
        """Let rows begin, as soon as there is a place for each.

        Raises:
            ApiError: 429, if too many wait already.
        """
        if len(self._placed) + len(self._waiting) + len(requests) > self._max_rows + self._max_waiting:
            raise too_many(
                f"{len(self._placed)} texts are being written and {len(self._waiting)} wait, and this server lets "
                f"{self._max_waiting} wait at most; try again.",
                retry_after_seconds=self._metrics.seconds_per_row(),
            )
        group = RowGroup(requests, self)
        self._waiting.extend(_Row(group, index) for index in range(len(requests)))
        self._place()
        return group

    def end(self, group: RowGroup) -> None:
        """Let the rows of a group end with what they have."""
        for row in [row for row in self._waiting if row.group is group]:
            self._waiting.remove(row)
            group.put(row.index, RowEnd(reason="cancelled"))
        for row in [row for row in self._placed if row.group is group]:
            self._commands.put(lambda row=row: self._cancel(row))
        self._count()

    def end_all(self) -> None:
        """Let all rows end with what they have."""
        for group in {id(row.group): row.group for row in (*self._waiting, *self._placed)}.values():
            self.end(group)

    def drop(self, group: RowGroup) -> None:
        """Forget the rows of a group."""
        self.end(group)

    def _place(self) -> None:
        """Let rows that wait take free places."""
        while self._waiting and len(self._placed) < self._max_rows:
            row = self._waiting.popleft()
            self._placed.add(row)
            self._commands.put(lambda row=row: self._admit(row))
        self._count()

    def _count(self) -> None:
        self._metrics.rows.set(len(self._placed))
        self._metrics.waiting.set(len(self._waiting))

    def _deliver(self, events: list[tuple[_Row, Event]]) -> None:
        """Hand events over, in the event loop's thread."""
        for row, event in events:
            if isinstance(event, RowEnd):
                self._placed.discard(row)
                self._metrics.count_prompt(event.prompt_tokens, event.cached_tokens)
            row.group.put(row.index, event)
        self._place()

    # What follows runs in the model's thread.

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            try:
                goes_on = self._turn()
            except Exception as error:  # or else all that come later would wait for ever
                LOG.exception("a step of the model failed; its %d texts are given up", len(self._rows))
                self._send([(row, RowEnd(reason="failed", error=error)) for row in self._rows.values()])
                self._rows, self._batch = {}, self._make_batch()

    def _turn(self) -> bool:
        """Do what was asked meanwhile, then one step; False at the end."""
        while not self._commands.empty() or not self._rows:
            command = self._commands.get()
            if command is None:
                self._send([(row, self._ended(row, "cancelled", None)) for row in list(self._rows.values())])
                return False
            command()
        steps = self._batch.step()
        if steps:
            self._send([event for step in steps for event in self._events_of(step)])
        self._after_step()
        return True

    def _events_of(self, step: RequestStep) -> list[tuple[_Row, Event]]:
        row = self._rows[step.number]
        events: list[tuple[_Row, Event]] = [] if step.ended == "failed" else [(row, step)]
        if step.ended is not None:
            events.append((row, self._ended(row, step.ended, step.error)))
        return events

    def _admit(self, row: _Row) -> None:
        try:
            row.number = self._batch.admit(row.request)
        except Exception as error:
            self._send([(row, RowEnd(reason="failed", error=error))])
            return
        self._rows[row.number] = row

    def _cancel(self, row: _Row) -> None:
        if row.number in self._rows:
            self._send([(row, self._ended(row, "cancelled", None))])

    def _ended(self, row: _Row, reason: Reason, error: Exception | None) -> RowEnd:
        """Take a row out of the batch, with its state."""
        assert row.number is not None
        progress = self._batch.progress(row.number)
        has_state = progress.new_tokens > 0 and reason != "failed" and not row.group.is_given_up
        state = self._batch.state(row.number) if has_state else None
        self._batch.remove(row.number)
        del self._rows[row.number]
        return RowEnd(
            reason=reason,
            state=state,
            prompt_tokens=progress.prompt_tokens,
            cached_tokens=progress.cached_tokens,
            new_tokens=progress.new_tokens,
            error=error,
        )

    def _send(self, events: list[tuple[_Row, Event]]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, events)
        except RuntimeError:  # the loop is closed: nobody waits any longer
            LOG.debug("the event loop has ended before %d events", len(events))


def refusal_of(end: RowEnd) -> ApiError:
    """What the client reads where a row failed: the caller's mistake, or the model's."""
    from retentive.errors import RetentiveError

    message = str(end.error)
    if isinstance(end.error, RetentiveError | ValueError | TypeError):
        return ApiError(400, message, code="invalid_value")
    return ApiError(500, "the model failed; the server's log says why.", code="model_failed")
