"""``POST /v1/completions``."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from retentive.checkpoints import GenerationState
from retentive.generation import RequestStep
from retentive.serving.answers.answering import DONE, data, finish_of
from retentive.serving.answers.asking import rows_of
from retentive.serving.answers.logprobs import TextOffsets, of_completion
from retentive.serving.answers.written import Written
from retentive.serving.errors import ApiError, invalid
from retentive.serving.routes.common import STREAMED, Owner, state_reference
from retentive.serving.routes.rows_answer import RowsAnswer, respond
from retentive.serving.rows import Event, RowEnd, RowGroup
from retentive.serving.service import Service
from retentive.serving.sessions.record import StateRecord, new_id
from retentive.serving.wire.common import Usage
from retentive.serving.wire.completions import Completion, CompletionChoice, CompletionRequest
from retentive.text.tokenizer import begin_of, encode_prompt

DEFAULT_TOKENS = 16


@dataclass(slots=True)
class _Answer(RowsAnswer[CompletionRequest]):
    """A request that is being answered."""

    prompts: list[list[int]]
    parent: StateRecord | None

    def echoed(self, row: int) -> str:
        """The prompt, where it was asked to be put before the text."""
        if not self.asked.echo:
            return ""
        given = self.asked.prompt or ""
        text = given[row // self.n] if isinstance(given, list) and given and isinstance(given[0], str) else given
        return text if isinstance(text, str) else self.service.words.tokenizer.decode(self.prompts[row // self.n])

    def event(self, choices: list[CompletionChoice], usage: Usage | None = None) -> bytes:
        return data(self.body(Completion, choices, usage))

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

    async def whole(self, group: RowGroup) -> Completion:
        """See `RowsAnswer`."""
        texts = [Written(text=self.echoed(row)) for row in range(len(self.requests))]
        await self.add_all(group, texts)
        choices = [await self.choice(row, text, group.ends[row], TextOffsets()) for row, text in enumerate(texts)]
        return self.body(Completion, choices, self.usage(group))

    async def events(self, group: RowGroup, events: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[bytes]:
        """See `RowsAnswer`."""
        offsets = [TextOffsets() for _ in self.requests]
        if self.asked.echo:
            for row in range(len(self.requests)):
                echoed = self.echoed(row)
                yield self.event([CompletionChoice(index=row, text=echoed, finish_reason=None)])
        async for row, event in events:
            text, end = Written(), event if isinstance(event, RowEnd) else None
            if isinstance(event, RequestStep):
                await self.add(row, text, event)
            if text.text or text.logprobs or text.neighbours or end is not None:
                yield self.event([await self.choice(row, text, end, offsets[row])])
        if self.streams_usage:
            yield self.event([], self.usage(group))
        yield DONE


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["text"])

    @routes.post("/v1/completions", response_model=Completion, response_model_exclude_none=True, responses=STREAMED)
    async def create_completion(asked: CompletionRequest, http: HttpRequest, owner: Owner) -> Any:
        """Go on with a text, or with several."""
        return await respond(service, owner, http, asked, _begin)

    return routes


async def _begin(service: Service, asked: CompletionRequest, owner: str) -> _Answer:
    if asked.best_of not in (None, asked.n or 1):
        raise invalid(f"best_of must be equal to n, {asked.n or 1}, or left out, but is {asked.best_of}.", "best_of")
    if asked.echo and asked.logprobs is not None:
        raise invalid("echo and logprobs must not both be given: prompts have no log-probabilities here.", "echo")
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
    return _Answer(service, asked, owner, requests, id=new_id("cmpl"), prompts=prompts, parent=parent)


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
