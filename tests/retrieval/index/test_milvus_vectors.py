"""The Milvus backend against milvus-lite, as a file and as a server on a local port."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from retentive.errors import MismatchError
from retentive.retrieval import Datastore, HybridEncoder
from retentive.retrieval.index import milvus_vectors
from retentive.retrieval.index.milvus_vectors import MilvusVectors, collection_name, upload_vectors
from retentive.retrieval.index.protocol import NearestVectors
from retrieval.texts import HashedWords, make_documents

QUERIES = ["baa bab", "loc loc mud", "tia tib tic", "sua"]


def build(folder: Path, documents: int = 40, encoder: object = None) -> Datastore:
    return Datastore.build(
        make_documents(documents), folder, chunk_size=16, block_bytes=900, encoder=encoder or HashedWords()
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).parent / "milvus-lite"
    folder = tmp_path_factory.mktemp("milvus")
    options = ["--data-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([program, "server", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture(params=["file", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "vectors.db") if request.param == "file" else request.getfixturevalue("server")


@pytest.mark.parametrize("index_type", ["FLAT", "HNSW"])
def test_answers_are_those_of_the_stores_own_index(
    tmp_path: Path, uri: str, index_type: str, monkeypatch: pytest.MonkeyPatch
):
    store = build(tmp_path / "s", documents=40 if index_type == "FLAT" else 41)
    backend = upload_vectors(store, uri, index_type=index_type)
    assert isinstance(backend, NearestVectors)
    served = Datastore.open(tmp_path / "s", encoder=HashedWords(), backend=backend)
    for query in (QUERIES, store.corpus.tokens(np.arange(store.corpus.num_chunks))):
        expected, found = store.search(query, k=3), served.search(query, k=3)
        # Equal distances may come in either order.
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        assert (found.ids == expected.ids).mean() > 0.9
    monkeypatch.setattr(milvus_vectors, "MOST_ANSWERS", 5)  # more are found by comparing the store's own vectors
    np.testing.assert_allclose(served.search(QUERIES, k=9).scores, store.search(QUERIES, k=9).scores, atol=1e-5)
    assert (served.search(QUERIES, k=1000).ids >= 0).sum(axis=1).tolist() == [len(store)] * len(QUERIES)
    backend.close()


def test_removed_documents_are_in_no_answer(tmp_path: Path, uri: str):
    store = build(tmp_path / "s", documents=20)
    backend = upload_vectors(store, uri)
    store.remove(["folder/1.txt", "folder/2.txt"])
    served = Datastore.open(tmp_path / "s", encoder=HashedWords(), backend=backend)
    assert not np.isin(served.corpus.documents(served.search(QUERIES, k=50).ids), [1, 2]).any()
    backend.close()


def test_hybrid_stores_fuse_words_with_vectors_from_milvus(tmp_path: Path):
    store = build(tmp_path / "s", encoder=HybridEncoder(HashedWords()))
    backend = upload_vectors(store, str(tmp_path / "vectors.db"), index_type="FLAT")
    served = Datastore.open(tmp_path / "s", encoder=HybridEncoder(HashedWords()), backend=backend)
    np.testing.assert_allclose(served.search(QUERIES, k=3).scores, store.search(QUERIES, k=3).scores, atol=1e-6)
    backend.close()


def test_an_interrupted_upload_goes_on_and_another_version_has_another_collection(tmp_path: Path, uri: str):
    store = build(tmp_path / "s", documents=30)
    backend = upload_vectors(store, uri)
    backend.close()
    client = MilvusClient(uri)
    last = store.corpus.num_chunks - 1
    client.delete(collection_name(store), ids=[last])
    client.close()
    backend = upload_vectors(store, uri)
    found, ids = backend.search(store.searcher._vectors[1].gather(np.array([last])), 1)
    assert ids.tolist() == [[last]]
    assert found[0, 0] == pytest.approx(0, abs=1e-6)
    store.add([("new", "zebra")])
    with pytest.raises(MismatchError, match=rf"has no collection '{collection_name(store)}': upload the store's"):
        MilvusVectors(uri, collection_name(store))
    assert collection_name(store) != backend.collection
    backend.close()


def test_what_cannot_be_is_refused(tmp_path: Path):
    words = Datastore.build(make_documents(3), tmp_path / "w")
    with pytest.raises(ValueError, match=r"has words alone, and Milvus holds vectors: build with encoder=dense"):
        upload_vectors(words, str(tmp_path / "x.db"))
    with pytest.raises(ConnectionError, match="uri must be that of a Milvus server or a file, but 'http://127"):
        MilvusVectors("http://127.0.0.1:1", "retentive_x")
    store = build(tmp_path / "s", documents=5)
    backend = upload_vectors(store, str(tmp_path / "vectors.db"))
    with pytest.raises(ValueError, match="k must be at most 16384 for Milvus, but is 16385"):
        backend.search(np.zeros((1, 16), dtype=np.float32), 16_385)
    assert backend.search(np.zeros((1, 16), dtype=np.float32), 0)[1].shape == (1, 0)
    backend.close()
    shutil.rmtree(tmp_path / "s")


def test_vectors_of_another_store_and_of_another_version_are_refused(tmp_path: Path):
    one = build(tmp_path / "one")
    build(tmp_path / "other", documents=30)
    backend = upload_vectors(one, str(tmp_path / "vectors.db"))
    with pytest.raises(MismatchError, match=r"the vectors of the backend are of another store than .*other"):
        Datastore.open(tmp_path / "other", encoder=HashedWords(), backend=backend).search("baa")
    served = Datastore.open(tmp_path / "one", encoder=HashedWords(), backend=backend)
    served.remove(["folder/1.txt"])
    assert 1 not in served.corpus.documents(served.search("baa", k=20).ids)
    served.add([("new", "zebra")])
    with pytest.raises(MismatchError, match=r"are of version .* which is now .*: upload them again"):
        served.search("zebra")
    backend.close()
