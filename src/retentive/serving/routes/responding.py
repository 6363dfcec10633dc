"""One answer of ``/v1/responses``: from the stored state before it to the one after it."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retentive.generation import Request, RequestStep
from retentive.serving.answers.asking import check_model, prompt_size, rows_of, tokens_before
from retentive.serving.answers.conversation import next_turn, plain_messages
from retentive.serving.answers.passages import Reading, readings_of
from retentive.serving.answers.written import Written
from retentive.serving.errors import ApiError, invalid
from retentive.serving.routes.common import state_reference
from retentive.serving.rows import RowEnd
from retentive.serving.service import Service
from retentive.serving.sessions.record import StateRecord, new_id
from retentive.serving.wire.responses import (
    Incomplete,
    InputDetails,
    OutputMessage,
    OutputText,
    Response,
    ResponseRequest,
    ResponseUsage,
)

DEFAULT_TOKENS = 1024
Status = Literal["in_progress", "completed", "incomplete", "cancelled", "failed"]


@dataclass(slots=True)
class Responding:
    """An answer that is being written."""

    service: Service
    asked: ResponseRequest
    owner: str
    messages: list[dict[str, str]]
    request: Request
    parent: StateRecord | None
    reading: Reading | None
    id: str = field(default_factory=lambda: new_id("resp"))
    message_id: str = field(default_factory=lambda: new_id("msg"))
    created: float = field(default_factory=time.time)
    written: Written = field(default_factory=Written)

    @property
    def is_stored(self) -> bool:
        """Whether the state is stored at the end."""
        return self.asked.store is not False

    async def add(self, step: RequestStep) -> Written:
        """Take a step; return what it added."""
        return await self.written.add(step, self.reading, self.service.words.tokenizer)

    async def finish(self, end: RowEnd) -> Response:
        """Store the state, and return the whole answer: it is complete only then."""
        status: Status = "completed" if end.reason in ("stop_token", "stop_string") else "incomplete"
        status = "cancelled" if end.reason == "cancelled" else status
        response = self.response(status, self._usage(end))
        if not self.is_stored or end.state is None:
            return response.model_copy(update={"store": False})
        turn: dict[str, Any] = {
            "input": self.messages,
            "output": self.written.text,
            "ended": end.reason == "stop_token",
            "response": response.model_dump(mode="json", exclude_none=True),
        }
        parent = None if self.parent is None else self.parent.id
        record = await self.service.keep(
            end.state, self.owner, kind="response", parent=parent, turn=turn, identifier=self.id
        )
        return response.model_copy(update={"state": state_reference(record)})

    def failed(self, error: ApiError) -> Response:
        """The answer that could not be given."""
        wrong = {"code": "server_error" if error.status >= 500 else "invalid_prompt", "message": error.message}
        return self.response("failed").model_copy(update={"error": wrong, "store": False})

    def response(self, status: Status, usage: ResponseUsage | None = None) -> Response:
        """The answer as it is now."""
        asked, is_begun = self.asked, status == "in_progress"
        return Response(
            id=self.id,
            created_at=self.created,
            completed_at=time.time() if status == "completed" else None,
            status=status,
            incomplete_details=Incomplete(reason="max_output_tokens") if status == "incomplete" else None,
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens,
            metadata=asked.metadata or {},
            model=asked.model,
            output=[] if is_begun else [OutputMessage.model_validate(self.message(_message_status(status)))],
            previous_response_id=asked.previous_response_id,
            store=self.is_stored,
            temperature=asked.temperature,
            top_logprobs=asked.top_logprobs,
            top_p=asked.top_p,
            usage=usage,
            user=asked.user,
            neighbours=self.written.neighbours or None,
        )

    def message(self, status: Literal["in_progress", "completed", "incomplete"], *, content: bool = True) -> Any:
        """The message of the answer, as JSON."""
        part = OutputText(text=self.written.text, logprobs=self.written.logprobs)
        parts = [part] if content else []
        return OutputMessage(id=self.message_id, status=status, content=parts).model_dump(mode="json")

    def _usage(self, end: RowEnd) -> ResponseUsage:
        read = prompt_size(self.request.state, self.request.prompt)
        return ResponseUsage(
            input_tokens=read,
            input_tokens_details=InputDetails(cached_tokens=tokens_before(self.request.state) + end.cached_tokens),
            output_tokens=end.new_tokens,
            total_tokens=read + end.new_tokens,
        )


def _message_status(status: Status) -> Literal["in_progress", "completed", "incomplete"]:
    return "completed" if status == "completed" else "incomplete"


async def begin_response(service: Service, asked: ResponseRequest, owner: str) -> Responding:
    """Find the state to go on from, and what is read after it.

    Raises:
        ApiError: If there is no such state, or the request asks for what cannot be.
    """
    check_model(service, asked.model)
    if asked.stream_options is not None and (not asked.stream or asked.stream_options.include_usage):
        raise invalid("stream_options must be left out: the last event has the usage.", "stream_options")
    parent, turn, state = None, _no_turn(), None
    if asked.previous_response_id is not None:
        parent = await service.find(owner, asked.previous_response_id)
        turn, state = parent.turn, await service.load(parent)
    if asked.store is not False:
        await service.check_room(owner)
    messages = _messages(asked)
    following = await asyncio.to_thread(next_turn, service.words, messages, state, turn)
    wants_logprobs = bool(asked.include) or asked.top_logprobs is not None
    requests = rows_of(
        service,
        asked,
        owner,
        [following.prompt],
        n=1,
        max_tokens=asked.max_output_tokens,
        max_tokens_param="max_output_tokens",
        default=DEFAULT_TOKENS,
        logprobs=asked.top_logprobs or 0 if wants_logprobs else None,
        state=following.state,
    )
    (reading,) = readings_of(service, requests, are_asked=asked.return_neighbours)
    return Responding(service, asked, owner, messages, requests[0], parent, reading)


def _messages(asked: ResponseRequest) -> list[dict[str, str]]:
    if isinstance(asked.input, str):
        messages = [{"role": "user", "content": asked.input}]
    elif asked.input:
        messages = plain_messages(asked.input)
    else:
        raise invalid("input must have at least one message, but has none.", "input")
    if asked.instructions is not None:
        messages = [{"role": "system", "content": asked.instructions}, *messages]
    return messages


def _no_turn() -> Mapping[str, Any]:
    return {}
