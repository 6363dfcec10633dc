"""``POST /v1/completions``."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from retentive.checkpoints import GenerationState
from retentive.generation import Request, RequestStep
from retentive.serving.answers.answering import DONE, data, events_of, finish_of
from retentive.serving.answers.asking import check_model, rows_of
from retentive.serving.answers.logprobs import TextOffsets, of_completion
from retentive.serving.answers.passages import Reading, readings_of
from retentive.serving.answers.written import Written
from retentive.serving.errors import ApiError, invalid
from retentive.serving.routes.common import STREAMED, Owner, respond, state_reference, usage_of
from retentive.serving.rows import Event, RowEnd, RowGroup
from retentive.serving.service import Service
from retentive.serving.sessions.record import StateRecord, new_id
from retentive.serving.wire.common import Usage
from retentive.serving.wire.completions import Completion, CompletionChoice, CompletionRequest
from retentive.text.tokenizer import begin_of, encode_prompt

DEFAULT_TOKENS = 16


@dataclass(slots=True)
class _Answer:
    """A request that is being answered."""

    service: Service
    asked: CompletionRequest
    owner: str
    prompts: list[list[int]]
    requests: list[Request]
    parent: StateRecord | None
    readings: list[Reading | None]
    id: str = field(default_factory=lambda: new_id("cmpl"))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def n(self) -> int:
        return self.asked.n or 1

    def echoed(self, row: int) -> str:
        """The prompt, where it was asked to be put before the text."""
        if not self.asked.echo:
            return ""
        given = self.asked.prompt or ""
        text = given[row // self.n] if isinstance(given, list) and given and isinstance(given[0], str) else given
        return text if isinstance(text, str) else self.service.words.tokenizer.decode(self.prompts[row // self.n])

    def body(self, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(
            id=self.id,
            created=self.created,
            model=self.asked.model,
            system_fingerprint=self.service.fingerprint,
            choices=choices,
            usage=usage,
        )

    async def choice(self, row: int, text: Written, end: RowEnd | None, offsets: TextOffsets) -> CompletionChoice:
        """What a row has written; its state is stored where it has ended."""
        stored = None
        if end is not None and end.state is not None and self.asked.return_state:
            parent = None if self.parent is None else self.parent.id
            turn = {"input": [], "output": text.text, "ended": end.reason == "stop_token"}
            stored = await self.service.keep(end.state, self.owner, kind="completion", parent=parent, turn=turn)
        return CompletionChoice(
            index=row,
            text=text.text,
            finish_reason=None if end is None else cast("Any", finish_of(end)),
            logprobs=of_completion(text.logprobs, offsets),
            state=None if stored is None else state_reference(stored),
            neighbours=text.neighbours or None,
        )

    async def add(self, row: int, text: Written, step: RequestStep) -> None:
        """Take a row's step."""
        await text.add(step, self.readings[row], self.service.words.tokenizer)

    async def whole(self, group: RowGroup) -> Completion:
        """See `RowsAnswer`."""
        texts = [Written(text=self.echoed(row)) for row in range(len(self.requests))]
        async for row, event in events_of(self.service, group):
            if isinstance(event, RequestStep):
                await self.add(row, texts[row], event)
        choices = [await self.choice(row, text, group.ends[row], TextOffsets()) for row, text in enumerate(texts)]
        return self.body(choices, self.usage(group))

    async def events(self, group: RowGroup, events: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[bytes]:
        """See `RowsAnswer`."""
        offsets = [TextOffsets() for _ in self.requests]
        if self.asked.echo:
            for row in range(len(self.requests)):
                echoed = self.echoed(row)
                yield data(self.body([CompletionChoice(index=row, text=echoed, finish_reason=None)], None))
        async for row, event in events:
            text, end = Written(), event if isinstance(event, RowEnd) else None
            if isinstance(event, RequestStep):
                await self.add(row, text, event)
            if text.text or text.logprobs or text.neighbours or end is not None:
                yield data(self.body([await self.choice(row, text, end, offsets[row])], None))
        if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
            yield data(self.body([], self.usage(group)))
        yield DONE

    def usage(self, group: RowGroup) -> Usage:
        return usage_of(self.requests, group, self.n)


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["text"])

    @routes.post("/v1/completions", response_model=Completion, response_model_exclude_none=True, responses=STREAMED)
    async def create_completion(asked: CompletionRequest, http: HttpRequest, owner: Owner) -> Any:
        """Go on with a text, or with several."""
        answer = await _begin(service, asked, owner)
        return await respond(service, owner, http, answer, is_stream=bool(asked.stream))

    return routes


async def _begin(service: Service, asked: CompletionRequest, owner: str) -> _Answer:
    check_model(service, asked.model)
    if asked.best_of not in (None, asked.n or 1):
        raise invalid(f"best_of must be equal to n, {asked.n or 1}, or left out, but is {asked.best_of}.", "best_of")
    if asked.echo and asked.logprobs is not None:
        raise invalid("echo and logprobs must not both be given: prompts have no log-probabilities here.", "echo")
    if asked.stream_options is not None and not asked.stream:
        raise invalid("stream_options are for streams: add stream=true, or leave them out.", "stream_options")
    parent = state = None
    if asked.state is not None:
        parent = await service.find(owner, asked.state)
        state = await service.load(parent)
    if asked.return_state:
        await service.check_room(owner)
    prompts = await asyncio.to_thread(_prompts, service, asked, state)
    requests = rows_of(
        service,
        asked,
        owner,
        prompts,
        n=asked.n or 1,
        max_tokens=asked.max_tokens,
        default=DEFAULT_TOKENS,
        max_tokens_param="max_tokens",
        logprobs=asked.logprobs,
        state=state,
    )
    readings = readings_of(service, requests, are_asked=asked.return_neighbours)
    return _Answer(service, asked, owner, prompts, requests, parent, readings)


def _prompts(service: Service, asked: CompletionRequest, state: GenerationState | None) -> list[list[int]]:
    """Token ids of each prompt."""
    given = asked.prompt if asked.prompt is not None else ""
    prompts: list[Any] = [given] if isinstance(given, str) or not given or isinstance(given[0], int) else list(given)
    tokenizer, vocab = service.words.tokenizer, service.model.vocab_size
    found: list[list[int]] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids = encode_prompt(tokenizer, prompt) if state is None else tokenizer.encode(prompt)
        else:
            ids = cast("list[int]", prompt)
        foreign = [one for one in ids if one >= vocab]
        if foreign:
            raise ApiError(
                400,
                f"prompt must have token ids from 0 to {vocab - 1}, but has {foreign[0]}.",
                code="invalid_value",
                param="prompt",
            )
        found.append(ids or ([begin_of(tokenizer)] if state is None else []))
    return found
