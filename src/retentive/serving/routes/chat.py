"""``POST /v1/chat/completions``: conversations that the client holds."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from retentive.serving.answers import logprobs
from retentive.serving.answers.answering import DONE, data, finish_of
from retentive.serving.answers.asking import rows_of
from retentive.serving.answers.conversation import first_turn, plain_messages
from retentive.serving.answers.written import Written
from retentive.serving.errors import ApiError, invalid
from retentive.serving.routes.common import STREAMED, Owner, state_reference
from retentive.serving.routes.rows_answer import RowsAnswer, respond
from retentive.serving.rows import Event, RowEnd, RowGroup
from retentive.serving.service import Service
from retentive.serving.sessions.record import new_id
from retentive.serving.wire.chat import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Delta,
)
from retentive.serving.wire.common import StateReference, Usage

DEFAULT_TOKENS = 1024


@dataclass(slots=True)
class _Answer(RowsAnswer[ChatRequest]):
    """A request that is being answered."""

    messages: list[dict[str, str]]

    async def stored(self, text: str, end: RowEnd) -> StateReference | None:
        if end.state is None or not self.asked.return_state:
            return None
        turn = {
            "input": self.messages,
            "output": text,
            "ended": end.reason == "stop_token",
            "metadata": self.asked.metadata or {},
        }
        return state_reference(await self.service.keep(end.state, self.owner, kind="chat", parent=None, turn=turn))

    async def whole(self, group: RowGroup) -> ChatCompletion:
        """See `RowsAnswer`."""
        messages = [Written() for _ in self.requests]
        await self.add_all(group, messages)
        choices = [
            ChatChoice(
                index=row,
                message=AssistantMessage(content=message.text),
                finish_reason=cast("Any", finish_of(group.ends[row])),
                logprobs=logprobs.of_message(message.logprobs),
                state=await self.stored(message.text, group.ends[row]),
                neighbours=message.neighbours or None,
            )
            for row, message in enumerate(messages)
        ]
        return self.body(ChatCompletion, choices, self.usage(group))

    async def events(self, group: RowGroup, events: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[bytes]:
        """See `RowsAnswer`."""
        texts = [""] * len(self.requests)
        for row in range(len(self.requests)):
            yield self.chunk([ChunkChoice(index=row, delta=Delta(role="assistant", content=""))])
        async for row, event in events:
            if isinstance(event, RowEnd):
                stored = await self.stored(texts[row], event)
                finish = cast("Any", finish_of(event))
                yield self.chunk([ChunkChoice(index=row, delta=Delta(), finish_reason=finish, state=stored)])
                continue
            part = Written()
            await self.add(row, part, event)
            texts[row] += part.text
            if part.text or part.logprobs or part.neighbours:
                choice = ChunkChoice(
                    index=row,
                    delta=Delta(content=part.text),
                    logprobs=logprobs.of_message(part.logprobs),
                    neighbours=part.neighbours or None,
                )
                yield self.chunk([choice])
        if self.streams_usage:
            yield self.chunk([], self.usage(group))
        yield DONE

    def chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> bytes:
        return data(self.body(ChatChunk, choices, usage))


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["text"])

    @routes.post(
        "/v1/chat/completions", response_model=ChatCompletion, response_model_exclude_none=True, responses=STREAMED
    )
    async def create_chat_completion(asked: ChatRequest, http: HttpRequest, owner: Owner) -> Any:
        """Write the next message of a conversation."""
        return await respond(service, owner, http, asked, _begin)

    return routes


async def _begin(service: Service, asked: ChatRequest, owner: str) -> _Answer:
    if service.words.template is None:
        raise ApiError(400, service.words.why_no_template, code="no_chat_template", param="messages")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise invalid("top_logprobs needs logprobs=true.", "top_logprobs")
    if None not in (asked.max_tokens, asked.max_completion_tokens) and asked.max_tokens != asked.max_completion_tokens:
        raise invalid("max_tokens and max_completion_tokens must not differ: give one of them.", "max_tokens")
    if asked.return_state:
        await service.check_room(owner)
    messages = plain_messages(asked.messages)
    prompt = await asyncio.to_thread(first_turn, service.words, messages)
    requests = rows_of(
        service,
        asked,
        owner,
        [prompt],
        n=asked.n or 1,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        default=DEFAULT_TOKENS,
        max_tokens_param="max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens",
        logprobs=asked.top_logprobs or 0 if asked.logprobs else None,
    )
    return _Answer(service, asked, owner, requests, id=new_id("chatcmpl"), messages=messages)
