"""Running the application: listening, and ending in order."""

import asyncio
import logging
import math
import socket
import threading
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from retentive.serving.app import answer_of, make_app
from retentive.serving.config import ServeConfig
from retentive.serving.errors import ApiError
from retentive.serving.running import FINISH_SECONDS, STORE_SECONDS
from retentive.serving.service import Service

LOG = logging.getLogger("retentive.serving")

MAX_CONNECTIONS = 1024
CROWDED_SECONDS = 5
HEAD_SECONDS = 30.0
"""Within so many seconds come the first lines of a request."""


class ImpatientProtocol(H11Protocol):
    """Closes connections on which the head of a request does not come: they are none of any owner's."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # uvloop's are none of asyncio's
        """Wait for the first request; refuse a connection where so many are open that files could not be."""
        super().connection_made(transport)
        if len(self.connections) > 2 * most_connections():
            transport.close()
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Wait no longer where the head is whole."""
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()

    def _wait_for_head(self) -> None:
        is_waiting = self.conn.their_state is h11.IDLE
        if is_waiting and self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        if not is_waiting and self._late is not None:
            self._late.cancel()
            self._late = None


def most_connections() -> int:
    """Connections on which requests are answered; twice as many may be open, and leave half of all files to others."""
    import resource  # absent on Windows, where nothing is served

    return min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


class Server(uvicorn.Server):
    """A server that lets answers finish, or stores what they have, before it ends."""

    def __init__(self, service: Service, *, finish_seconds: float = FINISH_SECONDS) -> None:
        """Serve.

        Args:
            service: The parts behind the routes.
            finish_seconds: How long answers may go on after SIGTERM.
        """
        self._app = make_app(service)
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            # The other protocol of uvicorn has no limit of headers.
            http=ImpatientProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever does not read an answer cannot keep the server from ending.
            timeout_graceful_shutdown=math.ceil(finish_seconds) + STORE_SECONDS,
        )
        super().__init__(config)
        self._service, self._finish_seconds = service, finish_seconds

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, unless too many connections are open; whether the process lives is always told."""
        is_crowded = scope["type"] == "http" and len(self.server_state.connections) > most_connections()
        if not is_crowded or scope["path"] == "/healthz":
            await self._app(scope, receive, send)
            return
        LOG.warning("more than %d connections are open", most_connections())
        words = "too many connections to this server are open; try again."
        refusal = ApiError(503, words, code="crowded", retry_after_seconds=CROWDED_SECONDS)
        await answer_of(refusal)(scope, receive, send)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End: take no more requests, and let answers finish. A second Ctrl-C ends at once."""
        self._service.is_ending = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers finish; after a while they end with what they have."""
        self._service.is_ending = True
        later = asyncio.get_running_loop().call_later(self._finish_seconds, self._service.thread.end_all)
        try:
            await super().shutdown(sockets)
        finally:
            later.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: If the port is taken, or the host is not of this machine; the message names both.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        place.close()
        reason = error.strerror or "it cannot be resolved"
        raise OSError(
            error.errno, f"cannot listen there ({reason}); choose another --port", f"{host}:{port}"
        ) from error
    return place


def address_of(place: socket.socket) -> str:
    """The address that a browser opens."""
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(config: ServeConfig) -> None:
    """Load the model and answer until SIGTERM or Ctrl-C.

    Raises:
        OSError: If the port is taken.
        FileNotFoundError: If there is no model.
    """
    if config.engine == "ray":
        from retentive.serving.replicas import serve_replicas

        serve_replicas(config)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _allow_connections()
    place = listen(config.host, config.port)  # before the model is loaded, which takes longer
    service = Service(config)
    print(f"{service.config.model_name} is served at {address_of(place)} (Ctrl-C ends)", flush=True)
    print(f"sessions: {_shown(config.sessions_place)}", flush=True)
    assert threading.current_thread() is threading.main_thread()
    Server(service).run(sockets=[place])


def _allow_connections() -> None:
    """Let this process open as many files as `MAX_CONNECTIONS` needs, where the system lets it."""
    import resource

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now < (wanted := 4 * MAX_CONNECTIONS if most == resource.RLIM_INFINITY else min(most, 4 * MAX_CONNECTIONS)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _shown(sessions: str) -> str:
    """Where sessions are, without a password."""
    scheme, found, rest = sessions.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else sessions
