"""What every request passes: its host, its key, the size and pace of its body, a line in the log, and a count."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retentive.serving.errors import ApiError, too_large
from retentive.serving.service import Service

LOG = logging.getLogger("retentive.serving.access")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
OWNER = "retentive_owner"
"""Where a request's scope has whose it is."""
BODY_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 256 << 10
"""A body comes at least so fast, but for so many seconds: who sends a byte now and then cannot keep a place."""
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
        begun, status, method = time.monotonic(), 500, scope["method"]
        if method == "HEAD":  # GET without its body, which the server leaves out
            scope = {**scope, "method": "GET"}
        body = _Body(receive, self._most(scope))

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_SAFE_HEADERS]
            await send(message)

        async def unless_refused(message: Message) -> None:
            if body.refusal is None:
                await noted(message)

        try:
            refusal = await self._answered(scope, body, unless_refused)
            if refusal is not None:
                await self._answer(refusal)(scope, receive, noted)
        finally:
            # The route and not the path: ids stay out of logs.
            route = getattr(scope.get("route"), "path", "unknown")
            self._service.metrics.requests.labels(route=route, status=str(status)).inc()
            owner = str(scope.get(OWNER, "-"))[:8]
            seconds = time.monotonic() - begun
            LOG.info("%s %s %d owner=%s %.3fs", method, route, status, owner, seconds)

    async def _answered(self, scope: Scope, body: "_Body", send: Send) -> ApiError | None:
        """Let the application answer; return why it may not, or why its answer was held back."""
        with ExitStack() as stack:
            try:
                self._check(scope)
                # Nothing of a body is read for those who have no key, or more requests than their share.
                if scope["path"].startswith("/v1/") or scope["path"] == "/metrics":
                    owner = scope[OWNER] = self._service.owners.identify(_headers(scope).get(b"authorization"))
                    stack.enter_context(self._service.asking(owner))
            except ApiError as error:
                return error
            await self._app(scope, body.receive, send)
        return body.refusal

    def _most(self, scope: Scope) -> int:
        limits = self._service.limits
        return limits.max_state_bytes if scope["method"] == "PUT" else limits.max_body_bytes

    def _check(self, scope: Scope) -> None:
        headers = _headers(scope)
        length, most = headers.get(b"content-length", ""), self._most(scope)
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        # A browser says where a page is from that asks: one of elsewhere may not, nor let its owner's browser write.
        if scope["method"] != "GET" and headers.get(b"sec-fetch-site", "none") not in ("same-origin", "none"):
            raise ApiError(403, "pages of other sites may not use this server.", code="foreign_page")
        # A page of elsewhere that lets its name lead to this machine is told by the name that it was asked by.
        if not self._service.owners.are_told_apart:
            host = _host(headers.get(b"host", ""))
            if host not in LOCAL_HOSTS | {self._service.config.host}:
                raise ApiError(
                    403,
                    "a server without keys answers to localhost and 127.0.0.1 alone; start it with --api-key-file.",
                    code="foreign_host",
                )


class _Body:
    """Messages of a body, which is measured as it comes: one without a length can be of any.

    Attributes:
        most: Bytes that it may have.
        refusal: Why it is read no further; None while nothing is wrong.
    """

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self.most = receive, most
        self._size, self._waited, self._is_whole = 0, 0.0, False
        self.refusal: ApiError | None = None

    async def receive(self) -> Message:
        if self._is_whole:  # the next message says that the client has left
            return await self._receive()
        message = await self._next()
        self._size += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._size > self.most:
            self.refusal = _too_large(self.most)
            raise self.refusal
        return message

    async def _next(self) -> Message:
        left = BODY_SECONDS + self._size / BODY_BYTES_PER_SECOND - self._waited
        begun = time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await self._receive()
        except TimeoutError:
            self.refusal = ApiError(408, "the body came too slowly; send it again, faster.", code="too_slow")
            raise self.refusal from None
        finally:
            self._waited += time.monotonic() - begun


def _headers(scope: Scope) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}


def _host(header: str) -> str | None:
    """The name that a server was asked by, without its port; None where the header has none."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:  # such as "[", which begins an address that does not end
        return None


def _too_large(most: int) -> ApiError:
    return too_large(f"the body must have at most {most} bytes on this server.")
