"""``/v1/states``: stored states as files that other programs go on from."""

import asyncio
import tempfile
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from fastapi import Request as HttpRequest

from retentive.serving.errors import ApiError, not_found, too_many
from retentive.serving.owners import Shares
from retentive.serving.routes.common import Owner
from retentive.serving.service import Service
from retentive.serving.sessions.codec import from_stranger
from retentive.serving.sessions.record import StateRecord
from retentive.serving.wire.common import Id
from retentive.serving.wire.states import DeletedState, StoredState, StoredStates

FILE = "application/octet-stream"
_UPLOADS = 2
"""Files of one owner that come at the same time."""
UPLOAD_SECONDS = 5
_CHECKS = 2
StateId = Annotated[Id, Path(description="An id that this server gave.")]


def shown(record: StateRecord) -> StoredState:
    """A record as the API shows it."""
    return StoredState(
        id=record.id,
        created=record.created,
        parent=record.parent,
        kind=record.kind,  # pyright: ignore[reportArgumentType] - pydantic validates it
        tokens=record.tokens,
        bytes=record.size,
        sha256=record.sha256,
        title=record.title,
        turn=record.turn or None,
    )


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["sessions"])
    _add_files(service, routes)

    @routes.get("/v1/states", response_model=StoredStates, response_model_exclude_none=True)
    async def list_states(
        owner: Owner,
        limit: Annotated[int, Query(ge=1, le=1000, description="States to list at most.")] = 100,
        before: Annotated[
            float | None, Query(allow_inf_nan=False, description="Only states made before this time.")
        ] = None,
    ) -> Any:
        """Your stored states, the newest first."""
        records = await service.stored(service.place.records, owner, newest=limit + 1, before=before)
        return StoredStates(data=[shown(record) for record in records[:limit]], has_more=len(records) > limit)

    @routes.get("/v1/states/{state_id}/record", response_model=StoredState)
    async def get_state_record(state_id: StateId, owner: Owner) -> Any:
        """What is known of a stored state."""
        return shown(await service.find(owner, state_id))

    @routes.post("/v1/states/{state_id}/fork", response_model=StoredState, status_code=201)
    async def fork_state(state_id: StateId, owner: Owner) -> Any:
        """Store the same state under another id: both go on apart."""
        record = await service.find(owner, state_id)
        content = await service.content(record)
        forked = await service.keep_bytes(
            content, owner, kind="fork", parent=record.id, turn=record.turn, tokens=record.tokens
        )
        return shown(forked)

    @routes.delete("/v1/states/{state_id}", response_model=DeletedState)
    async def delete_state(state_id: StateId, owner: Owner) -> Any:
        """Delete a stored state; those that went on from it stay."""
        if not await service.stored(service.place.delete, owner, state_id):
            raise not_found("state", state_id)
        return DeletedState(id=state_id)

    return routes


def _add_files(service: Service, routes: APIRouter) -> None:
    """States that come and go as files."""
    uploads, checks = Shares(_UPLOADS), asyncio.Semaphore(_CHECKS)

    def too_many_uploads() -> ApiError:
        return too_many(f"{_UPLOADS} of your state files are coming, which is the most; try again.", UPLOAD_SECONDS)

    @routes.put(
        "/v1/states",
        response_model=StoredState,
        status_code=201,
        openapi_extra={
            "requestBody": {"required": True, "content": {FILE: {"schema": {"type": "string", "format": "binary"}}}}
        },
    )
    async def put_state(http: HttpRequest, owner: Owner) -> Any:
        """Store a state file of this model, as ``save_state`` or ``retentive generate --save-state`` writes it."""
        await service.check_room(owner)
        with uploads.take(owner, too_many_uploads), tempfile.TemporaryFile() as file:
            # On disk while it comes: whoever sends slowly keeps nobody else's file from being checked.
            async for part in http.stream():
                file.write(part)
            async with checks:  # each may take max_state_bytes of memory
                file.seek(0)
                content = await asyncio.to_thread(file.read)
                state, turn = await asyncio.to_thread(from_stranger, content, service.model)
                tokens = int(state.model.position[0]) + 1
                record = await service.keep_bytes(content, owner, kind="upload", parent=None, turn=turn, tokens=tokens)
        return shown(record)

    @routes.get(
        "/v1/states/{state_id}",
        response_class=Response,
        responses={200: {"content": {FILE: {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def get_state(state_id: StateId, owner: Owner) -> Response:
        """A state as a safetensors file: ``load_state`` opens it, ``retentive generate --state`` goes on from it."""
        record = await service.find(owner, state_id)
        content = await service.content(record)
        headers = {
            "Content-Disposition": f'attachment; filename="{record.id}.safetensors"',
            "Cache-Control": "no-store",
        }
        return Response(content, media_type=FILE, headers=headers)
