"""What several routes need: who asks, references to states, and errors inside of a stream."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends
from fastapi import Request as HttpRequest
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from retentive.serving.answers.answering import data
from retentive.serving.errors import STORAGE_ERRORS, ApiError, no_storage
from retentive.serving.gate import OWNER
from retentive.serving.sessions.record import StateRecord
from retentive.serving.wire.common import ErrorBody, StateReference

LOG = logging.getLogger("retentive.serving")

_bearer = HTTPBearer(
    auto_error=False, description="An API key of the server's key file; a server without one asks none."
)


def _owner(
    http: HttpRequest, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> str:
    """Whose request it is: the gate has seen the key before the body was read."""
    return http.scope[OWNER]


Owner = Annotated[str, Depends(_owner)]

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": words}
    for status, words in {
        400: "The request cannot be answered: the message names the field, the rule and the cure.",
        401: "The API key is missing or unknown.",
        403: "The request is of a page of another site, or for a host that is none of this server.",
        404: "There is nothing of this name among yours.",
        408: "The body came too slowly.",
        409: "A stored state is damaged, or of other weights.",
        413: "More than this server takes in one request.",
        429: "More at once than this server takes; Retry-After says when to try again.",
        500: "The model failed.",
        503: "The server is about to end.",
    }.items()
}


_EVENT = {
    "type": "object",
    "description": "One server-sent event; its data is JSON, and that of the last one may be [DONE].",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
"""What routes answer with where a stream is asked for: each of its events."""


def state_reference(record: StateRecord) -> StateReference:
    """What an answer says of its stored state."""
    return StateReference(id=record.id, tokens=record.tokens, bytes=record.size)


def refusal_in_stream(error: Exception) -> ApiError | None:
    """What a stream that has begun says of an error; None where nobody listens any longer."""
    if isinstance(error, ApiError):
        return None if error.status == 499 else error
    if isinstance(error, STORAGE_ERRORS):
        return no_storage(error)
    LOG.error("an answer broke off", exc_info=error)
    return ApiError(500, "the answer broke off; the server's log says why.", code="broken")


async def stream_errors(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Say in a stream that has begun what went wrong, as OpenAI's clients read it."""
    try:
        async for event in events:
            yield event
    except Exception as error:
        refusal = refusal_in_stream(error)
        if refusal is not None:
            yield data(refusal.body())
