"""``/v1/responses``: answers after stored states, which cost the new tokens alone."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import ValidationError

from retentive.generation import RequestStep
from retentive.serving.answers.answering import EventStream, answering, data, events_of
from retentive.serving.errors import ApiError, not_found
from retentive.serving.routes.common import STREAMED, Owner, refusal_in_stream
from retentive.serving.routes.responding import Responding, begin_response
from retentive.serving.rows import RowGroup
from retentive.serving.running import RunningAnswers
from retentive.serving.service import Service
from retentive.serving.wire.common import Id
from retentive.serving.wire.responses import DeletedResponse, Response, ResponseRequest


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["sessions"])
    running = RunningAnswers(service)

    @routes.post("/v1/responses", response_model=Response, response_model_exclude_none=True, responses=STREAMED)
    async def create_response(asked: ResponseRequest, http: HttpRequest, owner: Owner) -> Any:
        """Answer after a stored state, and store the state that the answer leaves."""
        answer = await begin_response(service, asked, owner)
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(answering(service, owner, http, [answer.request]))
            stack.enter_context(running.noting(owner, answer.id, group))
            if not asked.stream:
                async for _, event in events_of(service, group):
                    if isinstance(event, RequestStep):
                        await answer.add(event)
                return await answer.finish(group.ends[0])
            return EventStream(_events(service, answer, group), stack.pop_all())

    @routes.get("/v1/responses/{response_id}", response_model=Response, response_model_exclude_none=True)
    async def get_response(response_id: Id, owner: Owner) -> Any:
        """A stored answer."""
        return await _stored(service, owner, response_id)

    @routes.post("/v1/responses/{response_id}/cancel", response_model=Response, response_model_exclude_none=True)
    async def cancel_response(response_id: Id, owner: Owner) -> Any:
        """Let an answer end with what it has; its stream then says so, and its state is stored."""
        if not running.end(owner, response_id):
            record = await service.find_or_none(owner, response_id)
            if record is not None or not await running.end_elsewhere(owner, response_id):
                return await _stored(service, owner, response_id)
        return Response(
            id=response_id,
            created_at=time.time(),
            status="cancelled",
            model=service.config.model_name,
            output=[],
            temperature=None,
            top_p=None,
        )

    @routes.delete("/v1/responses/{response_id}", response_model=DeletedResponse)
    async def delete_response(response_id: Id, owner: Owner) -> Any:
        """Delete a stored answer and its state; answers that went on from it stay."""
        await _stored(service, owner, response_id)
        if not await service.stored(service.place.delete, owner, response_id):
            raise not_found("response", response_id)
        return DeletedResponse(id=response_id)

    return routes


async def _stored(service: Service, owner: str, response_id: str) -> Response:
    """A stored answer."""
    record = await service.find(owner, response_id)
    if record.kind != "response":  # a fork has the turn of what it copies, and is none itself
        raise not_found("response", response_id)
    try:
        return Response.model_validate(record.turn.get("response"))
    except ValidationError as error:
        message = f"the response {response_id} was stored by another version; its state can be gone on from."
        raise ApiError(409, message, code="other_version") from error


async def _events(service: Service, answer: Responding, group: RowGroup) -> AsyncIterator[bytes]:
    """The events that OpenAI's clients expect, in order and numbered."""
    numbers = iter(range(1 << 62))

    def event(kind: str, **content: Any) -> bytes:
        return data({"type": kind, "sequence_number": next(numbers), **content}, kind)

    def whole(kind: str, response: Response) -> bytes:
        return event(kind, response=response.model_dump(mode="json", exclude_none=True))

    place: dict[str, Any] = {"item_id": answer.message_id, "output_index": 0, "content_index": 0}
    yield whole("response.created", answer.response("in_progress"))
    yield whole("response.in_progress", answer.response("in_progress"))
    item = answer.message("in_progress", content=False)
    yield event("response.output_item.added", output_index=0, item=item)
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    yield event("response.content_part.added", **place, part=empty)
    try:
        async for _, one in events_of(service, group):
            if not isinstance(one, RequestStep):
                continue
            added = await answer.add(one)
            if added.text or added.logprobs:
                logprobs = [each.model_dump() for each in added.logprobs]
                yield event("response.output_text.delta", **place, delta=added.text, logprobs=logprobs)
            if added.neighbours:
                passages = [each.model_dump(exclude_none=True) for each in added.neighbours]
                yield event("response.neighbours.delta", **place, neighbours=passages)
        finished = await answer.finish(group.ends[0])
    except Exception as error:
        refusal = refusal_in_stream(error)
        if refusal is not None:
            yield whole("response.failed", answer.failed(refusal))
        return
    message = answer.message("completed" if finished.status == "completed" else "incomplete")
    part = message["content"][0]
    yield event("response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"])
    yield event("response.content_part.done", **place, part=part)
    yield event("response.output_item.done", output_index=0, item=message)
    yield whole("response.completed" if finished.status == "completed" else "response.incomplete", finished)
