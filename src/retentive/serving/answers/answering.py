"""One request from its first row to its last event: counted, watched, and given up when its client leaves."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from retentive.generation import Request, RequestStep
from retentive.serving.errors import ApiError
from retentive.serving.rows import Event, RowEnd, RowGroup, refusal_of
from retentive.serving.service import Service

CLIENT_GONE = ApiError(499, "the client left before the answer.", code="client_gone")
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@asynccontextmanager
async def answering(
    service: Service, owner: str, http: HttpRequest, requests: Sequence[Request]
) -> AsyncGenerator[RowGroup]:
    """Rows that are written as long as the client listens.

    Raises:
        ApiError: 429, if there is no place for them.
    """
    begun = time.monotonic()
    with service.answering(owner):
        group = service.thread.submit(requests)
        watch = asyncio.create_task(_drop_when_gone(http, group))
        try:
            yield group
        finally:
            watch.cancel()
            group.drop()
            service.metrics.count_seconds(time.monotonic() - begun)


async def _drop_when_gone(http: HttpRequest, group: RowGroup) -> None:
    """Give rows up when the client leaves: the body is read, so the next message can only say that."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
    group.drop()


async def events_of(service: Service, group: RowGroup) -> AsyncIterator[tuple[int, Event]]:
    """The group's events, counted.

    Raises:
        ApiError: If a row failed, or the client left.
    """
    begun, first = time.monotonic(), True
    async for row, event in group:
        if group.is_given_up:
            raise CLIENT_GONE
        if isinstance(event, RowEnd):
            if event.reason == "failed":
                raise refusal_of(event)
        else:
            service.metrics.count_tokens(1)
            if first:
                service.metrics.first_token.observe(time.monotonic() - begun)
                first = False
        yield row, event


async def first_of(events: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[tuple[int, Event]]:
    """Wait for the first event, so that a refusal has its own status, and return all of them."""
    head = await anext(events)

    async def whole() -> AsyncIterator[tuple[int, Event]]:
        yield head
        async for event in events:
            yield event

    return whole()


class EventStream(StreamingResponse):
    """Server-sent events; what the stack holds ends with them, however they end."""

    def __init__(self, events: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        """Send events."""
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stack.aclose()


def data(content: BaseModel | dict[str, Any], name: str | None = None) -> bytes:
    """One event."""
    text = content.model_dump_json(exclude_none=True) if isinstance(content, BaseModel) else json.dumps(content)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def finish_of(end: RowEnd) -> str:
    """How OpenAI's clients call the end of a row."""
    return "length" if end.reason in ("length", "cancelled") else "stop"


def is_step(event: Event) -> bool:
    """Whether an event is a token."""
    return isinstance(event, RequestStep)
