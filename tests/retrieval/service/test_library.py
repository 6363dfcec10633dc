"""A store that is read, changed and served at the same time."""

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager

import anyio
import numpy as np
import pytest
import uvicorn
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from starlette.testclient import TestClient

from retentive.cli.main import main
from retentive.retrieval import Datastore
from retentive.retrieval.rerankers import LateInteraction
from retentive.retrieval.service.client import ServerError, search_server
from retentive.retrieval.service.library import Library
from retentive.retrieval.service.server import MCP_PATH, make_app, make_mcp, serve_store

TEXTS = {
    "owl.txt": "Owls hunt at night.\nTheir feathers make no sound.\n",
    "plane.txt": "A plane takes shavings off wood.",
}


@pytest.fixture
def folder(tmp_path):
    Datastore.build(list(TEXTS.items()), tmp_path / "s", chunk_size=64)
    return tmp_path / "s"


def test_http_searches_reads_adds_and_removes(folder):
    library = Library(folder)
    with TestClient(make_app(library, make_mcp(library)), base_url="http://127.0.0.1:8788") as client:

        def ask(path, **body):
            return client.post(f"/v1/{path}", json=body)

        (hit,) = ask("search", query="feathers").json()["data"][:1]
        assert (hit["document"], hit["line"], hit["column"]) == ("owl.txt", 2, 7)
        assert ask("read", document="owl.txt", first_line=2).json()["text"] == "Their feathers make no sound.\n"
        refused = ask("read", document="owl.txt", lines=2001)
        assert refused.status_code == 400
        assert "lines must be at most 2,000, but is 2,001" in refused.json()["error"]["message"]
        assert ask("add", document="crane.txt", text="Cranes dance at dawn.").json()["added"] == 1
        assert ask("search", query="dawn").json()["data"][0]["document"] == "crane.txt"
        assert ask("remove", documents=["crane.txt"]).json()["removed"] == 1
        assert ask("search", query="dawn").json()["data"] == []
        assert ask("documents").json()["data"] == list(TEXTS)
        for path, body, message in [
            ("search", {}, "query is missing"),
            ("search", {"query": "x", "k": 0}, "k must be at least 1"),
            (
                "search",
                {"qeury": "x"},
                "must be a JSON object with k, one_per_document, operators, query, rerank, where",
            ),
            ("search", {"query": 5}, "query must be a str, but is an int"),
            ("search", {"query": "owls", "operators": "no"}, "operators must be a bool, but is a str"),
            ("search", {"query": "owls", "rerank": True}, "rerank=True reads with the encoder of the store"),
            ("remove", {"documents": "owl.txt"}, "documents must be a list, but is a str"),
            ("read", {"document": "none"}, "document 'none' is not in the store"),
            ("add", {"document": "x", "text": " "}, "must have a name and a text"),
        ]:
            refused = client.post(f"/v1/{path}", content=json.dumps(body))
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]


def test_pages_of_others_in_a_browser_change_nothing(folder):
    library = Library(folder)
    with TestClient(make_app(library, make_mcp(library)), base_url="http://127.0.0.1:8788") as client:
        for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example:8788"}):
            refused = client.post("/v1/remove", content='{"documents": ["owl.txt"]}', headers=headers)
            assert refused.status_code == 403
        assert library.documents() == list(TEXTS)
        own = {"origin": "http://127.0.0.1:8788"}
        assert client.post("/v1/documents", headers=own).json()["data"] == list(TEXTS)


@contextmanager
def served(library):
    """The library behind a real port, and its address."""
    place = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(library, make_mcp(library)), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def test_ctrl_c_ends_a_served_store_as_it_ends_every_command(folder):
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]

    def interrupt():
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        serve_store(folder, host="127.0.0.1", port=port, stdio=False, writable=False)


def test_assistants_and_the_command_line_ask_over_http(folder, capsys):
    library = Library(folder, reranker=LateInteraction(Letters()))

    async def use(url):
        async with Client(f"{url}{MCP_PATH}") as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["search", "read", "add", "remove"]
            found = await client.call_tool("search", {"query": "owls", "rerank": True})
            assert found.structured_content["result"][0]["document"] == "owl.txt"
            await client.call_tool("add", {"document": "crane.txt", "text": "Cranes dance at dawn."})

    with served(library) as url:
        anyio.run(use, url)
        for asked in (
            {},
            {"k": 1},
            {"rerank": True},
            {"one_per_document": True, "where": "path=c*"},
            {"operators": False},
        ):
            assert search_server(url, {"query": "at -night", **asked}) == library.search("at -night", **asked)
        main(["index", "search", "at -night", "--server", url, "--k=1", "--rerank", "--json"])
        assert json.loads(capsys.readouterr().out)[0]["document"] == "crane.txt"
        with pytest.raises(ValueError, match="k must be at least 1 answer"):
            search_server(url, {"query": "owls", "k": 0})
        with pytest.raises(ServerError, match="is not one of retentive index serve: it answers 404"):
            search_server(f"{url}/elsewhere", {"query": "owls"})
    with pytest.raises(ServerError, match=r"no server answers at .* start one with retentive index serve"):
        search_server(url, {"query": "owls"})
    with pytest.raises(ValueError, match=r"server must be an address such as http://127\.0\.0\.1:8788, but is '8788'"):
        search_server("8788", {"query": "owls"})


class Letters:
    """A vector for each letter of a text."""

    def token_vectors(self, texts, *, special_tokens=True):
        return [np.eye(128, dtype=np.float32)[[ord(letter) % 128 for letter in text]] for text in texts]


def test_an_assistant_uses_the_tools(folder):
    async def use():
        async with Client(make_mcp(Library(folder))) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["search", "read", "add", "remove"]
            found = await client.call_tool("search", {"query": "wood", "k": 1})
            assert found.structured_content["result"][0]["document"] == "plane.txt"
            await client.call_tool("add", {"document": "crane.txt", "text": "Cranes dance."})
            read = await client.call_tool("read", {"document": "crane.txt"})
            assert read.structured_content["text"] == "Cranes dance."
            await client.call_tool("remove", {"documents": ["crane.txt"]})
            gone = await client.call_tool("read", {"document": "crane.txt"})
            assert gone.is_error
            assert "is not in the store" in gone.content[0].text

    anyio.run(use)


def test_an_assistant_starts_the_command_itself(folder):
    command = ["-m", "retentive", "index", "serve", "--store", str(folder), "--stdio", "--writable", "false"]
    server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))

    async def use():
        async with Client(server) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["search", "read"]
            found = await client.call_tool("search", {"query": "owls"})
            assert found.structured_content["result"][0]["document"] == "owl.txt"

    anyio.run(use)


def test_a_store_that_may_be_changed_is_not_open_to_other_machines(folder):
    with pytest.raises(ValueError, match=r"host must be of this machine .* but is 0.0.0.0: add --writable false"):
        serve_store(folder, host="0.0.0.0", port=8788, stdio=False, writable=True)


@pytest.mark.parametrize(("changes", "reads"), [(12, 60), pytest.param(100, 1000, marks=pytest.mark.slow)])
def test_no_read_is_torn_and_what_was_removed_is_in_none(tmp_path, changes, reads):
    """Two readers in threads while another object changes the store, deletes old versions, and says what it removed."""
    Datastore.build([("keep", "shared word of the first document")], tmp_path / "s", chunk_size=32)
    library = Library(tmp_path / "s")
    gone: list[int] = []
    faults: list[str] = []
    done = threading.Event()

    def read():
        count = 0
        while count < reads or not done.is_set():
            count += 1
            before = len(gone)
            for hit in library.search("shared", k=10):
                words = hit.text.split()
                if hit.document != "keep" and words[-1] != f"end{hit.document}":
                    faults.append(f"torn: {words}")
                if hit.document.isdigit() and int(hit.document) in gone[:before]:
                    faults.append(f"removed: {hit.document}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    store = Datastore.open(tmp_path / "s")
    for number in range(changes):
        store.add([(str(number), f"shared text that is longer than one chunk end{number}")])
        if number % 2:
            store.remove([str(number - 1)])
            gone.append(number - 1)
        if number % 5 == 4:
            store.gc()
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert {hit.document for hit in library.search("shared", k=changes)} == {
        "keep",
        *(str(n) for n in range(1, changes, 2)),
    }
