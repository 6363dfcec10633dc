"""What every request passes: its host, the size of its body, a line in the log, and a count."""

import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retentive.serving.errors import ApiError, too_large
from retentive.serving.service import Service

LOG = logging.getLogger("retentive.serving.access")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Gate:
    """A layer around the application."""

    def __init__(self, app: ASGIApp, service: Service, answer: Callable[[ApiError], ASGIApp]) -> None:
        """Stand before an application.

        Args:
            app: What answers.
            service: Its parts.
            answer: Makes the answer to what is refused here.
        """
        self._app, self._service, self._answer = app, service, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500
        body = _Body(receive, self._most(scope))

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_SAFE_HEADERS]
            await send(message)

        async def unless_too_large(message: Message) -> None:
            if not body.is_too_large:
                await noted(message)

        try:
            refused = self._refusal(scope)
            if refused is None:
                await self._app(scope, body.receive, unless_too_large)
            if refused is not None or body.is_too_large:
                await self._answer(refused or _too_large(body.most))(scope, receive, noted)
        finally:
            # The route and not the path: ids stay out of logs.
            route = getattr(scope.get("route"), "path", "unknown")
            self._service.metrics.requests.labels(route=route, status=str(status)).inc()
            owner = str(scope.get("retentive_owner", "-"))[:8]
            seconds = time.monotonic() - begun
            LOG.info("%s %s %d owner=%s %.3fs", scope["method"], route, status, owner, seconds)

    def _most(self, scope: Scope) -> int:
        limits = self._service.limits
        return limits.max_state_bytes if scope["method"] == "PUT" else limits.max_body_bytes

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        length, most = headers.get(b"content-length", ""), self._most(scope)
        if length.isdigit() and int(length) > most:
            return _too_large(most)
        # A browser says where a page is from that asks: one of elsewhere may not, nor let its owner's browser write.
        if scope["method"] != "GET" and headers.get(b"sec-fetch-site", "none") not in ("same-origin", "none"):
            return ApiError(403, "pages of other sites may not use this server.", code="foreign_page")
        # A page of elsewhere that lets its name lead to this machine is told by the name that it was asked by.
        if not self._service.owners.are_told_apart:
            host = urlsplit(f"//{headers.get(b'host', '')}").hostname
            if host not in LOCAL_HOSTS | {self._service.config.host}:
                return ApiError(
                    403,
                    "a server without keys answers to localhost and 127.0.0.1 alone; start it with --api-key-file.",
                    code="foreign_host",
                )
        return None


class _Body:
    """Messages of a body, which is measured as it comes: one without a length can be of any."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self.most = receive, most
        self._size = 0

    @property
    def is_too_large(self) -> bool:
        return self._size > self.most

    async def receive(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self.is_too_large:
            raise _too_large(self.most)
        return message


def _too_large(most: int) -> ApiError:
    return too_large(f"the body must have at most {most} bytes on this server.")
