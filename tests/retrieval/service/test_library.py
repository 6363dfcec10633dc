"""A store that is read, changed and served at the same time."""

import json
import os
import sys
import threading

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from starlette.testclient import TestClient

from retentive.retrieval import Datastore
from retentive.retrieval.service.library import Library
from retentive.retrieval.service.server import make_app, make_mcp, serve_store

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
    with TestClient(make_app(library, make_mcp(library))) as client:

        def ask(path, **body):
            return client.post(f"/v1/{path}", json=body)

        (hit,) = ask("search", query="feathers").json()["data"][:1]
        assert (hit["document"], hit["line"], hit["column"]) == ("owl.txt", 2, 7)
        assert ask("read", document="owl.txt", first_line=2).json()["text"] == "Their feathers make no sound.\n"
        assert ask("add", document="crane.txt", text="Cranes dance at dawn.").json()["added"] == 1
        assert ask("search", query="dawn").json()["data"][0]["document"] == "crane.txt"
        assert ask("remove", documents=["crane.txt"]).json()["removed"] == 1
        assert ask("search", query="dawn").json()["data"] == []
        assert ask("documents").json()["data"] == list(TEXTS)
        for path, body, message in [
            ("search", {}, "query is missing"),
            ("search", {"query": "x", "k": 0}, "k must be at least 1"),
            ("search", {"qeury": "x"}, "must be a JSON object with k, query, where"),
            ("read", {"document": "none"}, "document 'none' is not in the store"),
            ("add", {"document": "x", "text": " "}, "must have a name and a text"),
        ]:
            refused = client.post(f"/v1/{path}", content=json.dumps(body))
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]


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


def test_no_read_is_torn_and_what_was_removed_is_in_none(tmp_path):
    """Readers in threads while another object changes the store, deletes old versions, and says what it removed."""
    changes, reads = 12, 60
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
    assert {hit.document for hit in library.search("shared", k=20)} == {"keep", *(str(n) for n in range(1, changes, 2))}
