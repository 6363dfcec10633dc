"""Running the application: listening, and ending in order."""

import asyncio
import logging
import math
import socket
import threading
from types import FrameType

import uvicorn

from retentive.serving.app import make_app
from retentive.serving.config import ServeConfig
from retentive.serving.service import Service

FINISH_SECONDS = 20.0
"""After SIGTERM, answers have so long to end by themselves; then they end with what they have, and are stored."""
STORE_SECONDS = 10
MAX_CONNECTIONS = 1024


class Server(uvicorn.Server):
    """A server that lets answers finish, or stores what they have, before it ends."""

    def __init__(self, service: Service, *, finish_seconds: float = FINISH_SECONDS) -> None:
        """Serve.

        Args:
            service: The parts behind the routes.
            finish_seconds: How long answers may go on after SIGTERM.
        """
        config = uvicorn.Config(
            make_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever does not read an answer cannot keep the server from ending.
            timeout_graceful_shutdown=math.ceil(finish_seconds) + STORE_SECONDS,
            limit_concurrency=MAX_CONNECTIONS,
        )
        super().__init__(config)
        self._service, self._finish_seconds = service, finish_seconds

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
    place = listen(config.host, config.port)  # before the model is loaded, which takes longer
    service = Service(config)
    print(f"{service.config.model_name} is served at {address_of(place)} (Ctrl-C ends)", flush=True)
    print(f"sessions: {_shown(config.sessions_place)}", flush=True)
    assert threading.current_thread() is threading.main_thread()
    Server(service).run(sockets=[place])


def _shown(sessions: str) -> str:
    """Where sessions are, without a password."""
    scheme, found, rest = sessions.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else sessions
