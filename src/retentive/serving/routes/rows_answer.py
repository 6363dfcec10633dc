"""An answer that is written by rows, whole or as a stream: what chat and completions have in common."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fastapi import Request as HttpRequest

from retentive.generation import Request, RequestStep
from retentive.serving.answers.answering import EventStream, answering, events_of, first_of
from retentive.serving.answers.asking import check_model, prompt_size, tokens_before
from retentive.serving.answers.passages import Reading, readings_of
from retentive.serving.answers.written import Written
from retentive.serving.errors import invalid
from retentive.serving.routes.common import stream_errors
from retentive.serving.rows import Event, RowGroup
from retentive.serving.service import Service
from retentive.serving.wire.chat import ChatRequest
from retentive.serving.wire.common import TokenDetails, Usage, Wire
from retentive.serving.wire.completions import CompletionRequest

Body = TypeVar("Body", bound=Wire)
AskedT = TypeVar("AskedT", ChatRequest, CompletionRequest)


@dataclass(slots=True)
class RowsAnswer(ABC, Generic[AskedT]):
    """A request that is being answered.

    Attributes:
        service: Answers it.
        asked: The request.
        owner: Whose it is.
        requests: What each row writes; a prompt with several answers has several rows.
        id: Of the answer.
        readings: What each row reads of the datastore.
        created: When it was begun, in seconds since 1970.
    """

    service: Service
    asked: AskedT
    owner: str
    requests: list[Request]
    id: str
    readings: list[Reading | None] = field(init=False)
    created: int = field(init=False, default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        """Find out what each row reads."""
        self.readings = readings_of(self.service, self.requests, are_asked=self.asked.return_neighbours)

    @abstractmethod
    async def whole(self, group: RowGroup) -> Any:
        """The answer, after its last token."""

    @abstractmethod
    def events(self, group: RowGroup, events: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[bytes]:
        """Server-sent events, one for each step."""

    async def add(self, row: int, written: Written, step: RequestStep) -> None:
        """Take a row's step."""
        await written.add(step, self.readings[row], self.service.words.tokenizer)

    async def add_all(self, group: RowGroup, written: Sequence[Written]) -> None:
        """Take all steps of all rows."""
        async for row, event in events_of(self.service, group):
            if isinstance(event, RequestStep):
                await self.add(row, written[row], event)

    @property
    def n(self) -> int:
        """Answers to each prompt."""
        return self.asked.n or 1

    @property
    def streams_usage(self) -> bool:
        """Whether a stream tells the numbers of tokens at its end."""
        options = self.asked.stream_options
        return options is not None and bool(options.include_usage)

    def body(self, kind: Callable[..., Body], choices: list[Any], usage: Usage | None) -> Body:
        """An answer, or an event of one, with what says whose it is."""
        return kind(
            id=self.id,
            created=self.created,
            model=self.asked.model,
            system_fingerprint=self.service.fingerprint,
            choices=choices,
            usage=usage,
        )

    def usage(self, group: RowGroup) -> Usage:
        """Numbers of tokens: a prompt with several answers counts once."""
        firsts = range(0, len(self.requests), self.n)
        prompt = sum(prompt_size(self.requests[row].state, self.requests[row].prompt) for row in firsts)
        cached = sum(tokens_before(self.requests[row].state) + group.ends[row].cached_tokens for row in firsts)
        written = sum(end.new_tokens for end in group.ends.values())
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=written,
            total_tokens=prompt + written,
            prompt_tokens_details=TokenDetails(cached_tokens=cached),
        )


async def respond(
    service: Service,
    owner: str,
    http: HttpRequest,
    asked: AskedT,
    begin: Callable[[Service, AskedT, str], Awaitable[RowsAnswer[AskedT]]],
) -> Any:
    """Begin an answer, and let its rows be written as long as the client listens.

    Raises:
        ApiError: If the request is for another model, or asks for what cannot be.
    """
    check_model(service, asked.model)
    if asked.stream_options is not None and not asked.stream:
        raise invalid("stream_options are for streams: add stream=true, or leave them out.", "stream_options")
    answer = await begin(service, asked, owner)
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(answering(service, owner, http, answer.requests))
        if not asked.stream:
            return await answer.whole(group)
        events = await first_of(events_of(service, group))
        return EventStream(stream_errors(answer.events(group, events)), stack.pop_all())
