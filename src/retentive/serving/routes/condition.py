"""Whether the server lives and can answer, what it counts, and the page."""

import math
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from retentive.serving.errors import STORAGE_ERRORS, ApiError, no_storage
from retentive.serving.routes.common import Owner
from retentive.serving.service import Service
from retentive.serving.wire.states import Health


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["condition"])

    @routes.get("/healthz", response_model=Health)
    async def healthz() -> Any:
        """Whether the process answers."""
        return Health(status="ok")

    @routes.get("/readyz", response_model=Health)
    async def readyz() -> Any:
        """Whether it can take requests: the model's thread runs, and states can be stored."""
        if service.is_ending or not service.thread.is_alive:
            raise ApiError(503, "the server is about to end.", code="ending", retry_after_seconds=5)
        try:
            await service.stored(service.place.check)
        except STORAGE_ERRORS as error:
            raise no_storage(error) from error
        return Health(status="ok")

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics(owner: Owner) -> Response:
        """Numbers in Prometheus' format."""
        try:
            count, size = await service.stored(service.place.size)
        except STORAGE_ERRORS:  # the other numbers are wanted all the more
            count = size = math.nan
        service.metrics.states.set(count)
        service.metrics.state_bytes.set(size)
        service.metrics.cache_hits.set(service.prefixes.hits)
        service.metrics.cache_misses.set(service.prefixes.misses)
        service.metrics.cache_bytes.set(service.prefixes.ram_in_use)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
