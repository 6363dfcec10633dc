"""The application: routes, errors, and what the OpenAPI says of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from retentive.serving.errors import STORAGE_ERRORS, ApiError, invalid, no_storage
from retentive.serving.gate import Gate
from retentive.serving.page import routes as page
from retentive.serving.routes import chat, completions, condition, responses, states, text
from retentive.serving.routes.common import REFUSALS
from retentive.serving.running import end_when_asked
from retentive.serving.service import Service


def make_app(service: Service) -> FastAPI:
    """The application around a service; the model's thread runs while it does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        service.thread.start(asyncio.get_running_loop())
        hearing = asyncio.create_task(end_when_asked(service)) if service.config.engine == "ray" else None
        try:
            yield
        finally:
            if hearing is not None:
                hearing.cancel()
            await service.thread.stop()
            service.close()

    # The usual documentation pages fetch scripts from elsewhere, so there are none.
    app = FastAPI(
        title="retentive", lifespan=lifespan, docs_url=None, redoc_url=None, responses=REFUSALS, redirect_slashes=False
    )
    app.state.service = service
    for part in (text, completions, chat, responses, states, condition, page):
        app.include_router(part.router(service))
    app.add_exception_handler(ApiError, _explain)
    app.add_exception_handler(RequestValidationError, _explain_fields)
    app.add_exception_handler(HTTPException, _explain_route)
    for kind in STORAGE_ERRORS:
        app.add_exception_handler(kind, _explain_storage)
    app.add_exception_handler(Exception, _explain_fault)
    app.add_middleware(Gate, service=service, answer=answer_of)  # pyright: ignore[reportArgumentType]
    app.openapi = lambda: _openapi(app)
    return app


def answer_of(error: ApiError) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse(error.body(), error.status, headers=error.headers())


async def _explain(http: HttpRequest, error: Any) -> JSONResponse:
    return answer_of(error)


async def _explain_fields(http: HttpRequest, error: Any) -> JSONResponse:
    """Name the first field that is wrong; what was sent is not repeated, for it may be long, or a secret."""
    errors = error.errors()
    # Of a field that may be one of several things, the error that lies deepest is of the one that was meant.
    first = max((one for one in errors if one["loc"][:2] == errors[0]["loc"][:2]), key=lambda one: len(one["loc"]))
    place = ".".join(str(part) for part in first["loc"][1:])[:100] or "the body"
    rule = "is not known to this server" if first["type"] == "extra_forbidden" else f"is refused: {first['msg']}"
    return answer_of(invalid(f"{place} {rule}.", place))


async def _explain_route(http: HttpRequest, error: Any) -> JSONResponse:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    words = {404: "there is nothing at this path; /openapi.json lists what there is."}
    message = words.get(error.status_code, f"{error.detail}.")
    answer = answer_of(ApiError(error.status_code, message, code=code))
    answer.headers.update(error.headers or {})
    return answer


async def _explain_storage(http: HttpRequest, error: Exception) -> JSONResponse:
    """States cannot be stored."""
    return answer_of(no_storage(error))


async def _explain_fault(http: HttpRequest, error: Exception) -> JSONResponse:
    return answer_of(ApiError(500, "the server failed; its log says why.", code="internal"))


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI; fields that are refused are answered with 400, as OpenAI's API does."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        app.openapi_schema = schema
    return app.openapi_schema
