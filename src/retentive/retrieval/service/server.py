"""The library over HTTP, and for assistants by the Model Context Protocol (MCP)."""

import json
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from retentive.config_types import check_kind
from retentive.errors import RetentiveError
from retentive.extras import require
from retentive.files.progress import say
from retentive.retrieval.rerankers import open_reranker
from retentive.retrieval.search.answers import Answer
from retentive.retrieval.service.library import Library

MCP_PATH = "/mcp"
Kinds = dict[str, tuple[type, ...]]
"""Names and types of what a request may give."""

_ASKED: Kinds = {
    "query": (str,),
    "k": (int,),
    "where": (str, dict),
    "one_per_document": (bool,),
    "operators": (bool,),
    "rerank": (bool,),
}
"""What ``POST /v1/search`` takes."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_INSTRUCTIONS = (
    "A library of documents. Search it before you answer from memory, and read the lines around an answer before you "
    "quote it; name the document and the line that you quote."
)


def serve_store(
    folder: Path, *, host: str, port: int, stdio: bool, writable: bool, reranker: Path | None = None
) -> None:
    """Serve a store until it is interrupted.

    Args:
        folder: Folder of the store.
        host: Address to listen at.
        port: Port to listen at.
        stdio: Speak MCP over standard input and output instead, for an assistant that starts this command.
        writable: Whether documents may be added and removed.
        reranker: Folder of the model that judges answers again, as for `open_reranker`; ``None`` is the store's own.

    Raises:
        ValueError: If a writable store would be open to other machines.
        ImportError: If the package for it is not installed.
    """
    if writable and not stdio and host not in _LOOPBACK:
        raise ValueError(
            f"host must be of this machine (127.0.0.1) for a store that may be changed, but is {host}: "
            "add --writable false, or put a server that asks who is there in front of it."
        )
    library = Library(folder, writable=writable, reranker=None if reranker is None else open_reranker(reranker))
    server = make_mcp(library)
    if stdio:
        server.run("stdio")
        return
    require("uvicorn", "serving a store", extra="mcp")
    require("starlette", "serving a store", extra="mcp")
    import uvicorn

    app = make_app(library, server, host)
    say(f"serving {folder} at http://{host}:{port}/v1/search, and by MCP at http://{host}:{port}{MCP_PATH}")
    # Its own `run` would end Ctrl-C without a word.
    uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).run()


def make_mcp(library: Library) -> Any:
    """The MCP server of a library: tools to search and read, and to add and remove where it is writable.

    Raises:
        ImportError: If the package ``mcp`` is not installed.
    """
    try:
        from mcp.server import MCPServer
    except ImportError as error:
        raise ImportError("serving a store needs the package mcp: pip install 'retentive[mcp]'.") from error
    server = MCPServer("retentive", instructions=_INSTRUCTIONS)

    _offer_reading(server, library)
    if library.writable:
        _offer_changes(server, library)
    return server


def _offer_reading(server: Any, library: Library) -> None:
    @server.tool()
    def search(query: str, k: int = 5, where: str | None = None, rerank: bool = False) -> list[dict[str, Any]]:
        """Find the passages of the library that are nearest to a text.

        Args:
            query: A question, or words to look for; "a phrase" must be in every answer, -word in none.
            k: How many passages.
            where: Conditions on documents, as "year>=1999 path=docs/*"; path is a document's name.
            rerank: Have a model read the first passages again; better and slower.
        """
        with _told():
            return [answer.as_dict() for answer in library.search(query, k, where=where, rerank=rerank)]

    @server.tool()
    def read(document: str, first_line: int = 1, lines: int = 200) -> dict[str, Any]:
        """Read lines of a document of the library.

        Args:
            document: Its name, as search gives it.
            first_line: The first line to read, from 1.
            lines: How many lines, at most 2,000.
        """
        with _told():
            return asdict(library.read(document, first_line, lines))


def _offer_changes(server: Any, library: Library) -> None:
    @server.tool()
    def add(document: str, text: str) -> dict[str, Any]:
        """Add a document to the library, or replace the one of this name.

        Args:
            document: Its name.
            text: Its text.
        """
        with _told():
            return library.add(document, text)

    @server.tool()
    def remove(documents: list[str]) -> dict[str, Any]:
        """Remove documents from the library; no later answer has their text.

        Args:
            documents: Their names.
        """
        with _told():
            return library.remove(documents)


def _passage(answer: Answer) -> dict[str, Any]:
    """An answer, also by the names that the server of models gives it."""
    return answer.as_dict() | {"id": answer.chunk, "position": answer.begin}


@contextmanager
def _told() -> Generator[None]:
    """Tell the assistant what is wrong; of other errors than these it is told that there was one."""
    from mcp.server.mcpserver.exceptions import ToolError

    try:
        yield
    except (ValueError, RetentiveError, OSError) as error:
        raise ToolError(str(error)) from error


def foreign_page(headers: Mapping[str, str], host: str) -> str:
    """Why a request is not answered that a page of somebody else's in a browser may have sent; empty for others.

    A browser names the page that sends a request, and the name by which the page knows this machine.

    Args:
        headers: Of the request, by their names in lower case.
        host: Address that is listened at.
    """
    asked, origin = headers.get("host", ""), headers.get("origin")
    if host in _LOOPBACK and urlsplit(f"//{asked}").hostname not in _LOOPBACK:
        return f"host must be 127.0.0.1 or localhost, but is {asked!r}."
    if origin is not None and urlsplit(origin).netloc != asked:
        return f"origin must be this server, but is {origin!r}."
    return ""


def make_app(library: Library, server: Any, host: str = "127.0.0.1") -> Any:
    """The HTTP application: ``/v1`` for programs, and the MCP server at `MCP_PATH`."""
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    def route(path: str, answer: Callable[[dict[str, Any]], dict[str, Any]], kinds: Kinds) -> None:
        async def handle(request: Request) -> Response:
            try:
                if refused := foreign_page(request.headers, host):
                    return _refusal(403, "forbidden", refused)
                asked: Any = json.loads(await request.body() or b"{}")
                if not isinstance(asked, dict) or not asked.keys() <= kinds.keys():
                    raise ValueError(f"the body must be a JSON object with {', '.join(sorted(kinds)) or 'nothing'}.")
                given = {name: value for name, value in asked.items() if value is not None}
                for name, value in given.items():
                    check_kind(name, value, *kinds[name])
                return JSONResponse(await run_in_threadpool(answer, given))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                message = f"{error.args[0]} is missing." if isinstance(error, KeyError) else str(error)
                return _refusal(400, "invalid_request_error", message)
            except BlockingIOError as error:
                return _refusal(409, "busy", str(error))
            except (RetentiveError, OSError) as error:
                return _refusal(500, "store_error", str(error))

        wrapped: Callable[[Request], Awaitable[Response]] = handle
        server.custom_route(path, methods=["POST"])(wrapped)

    def _refusal(status: int, kind: str, message: str) -> Response:
        return JSONResponse({"error": {"type": kind, "message": message}}, status_code=status)

    def search(asked: dict[str, Any]) -> dict[str, Any]:
        query = asked.pop("query")
        found = library.search(query, **asked)
        return {"object": "list", "data": [_passage(answer) for answer in found]}

    def read(asked: dict[str, Any]) -> dict[str, Any]:
        return asdict(library.read(asked["document"], asked.get("first_line", 1), asked.get("lines", 200)))

    route("/v1/search", search, _ASKED)
    route("/v1/read", read, {"document": (str,), "first_line": (int,), "lines": (int,)})
    route("/v1/documents", lambda _: {"object": "list", "data": library.documents()}, {})
    if library.writable:
        named = {"document": (str,), "text": (str,)}
        route("/v1/add", lambda asked: library.add(asked["document"], asked["text"]), named)
        route("/v1/remove", lambda asked: library.remove(asked["documents"]), {"documents": (list,)})
    return server.streamable_http_app(streamable_http_path=MCP_PATH, host=host)
