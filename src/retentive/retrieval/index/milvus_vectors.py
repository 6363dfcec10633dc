"""Nearest vectors through Milvus, for search that many machines share; the store's text stays where it is.

`upload_vectors` copies the vectors of a store's version into a collection of their own, and `MilvusVectors` answers
from it: ``Datastore.open(folder, backend=upload_vectors(store, "http://milvus:19530"))``. Without a server, the name of
a file that ends in ``.db`` works through ``milvus-lite``, for one process at a time.
"""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from retentive.errors import MismatchError
from retentive.files import canonical_json
from retentive.files.progress import with_progress
from retentive.retrieval.blocks.block import key_of
from retentive.retrieval.blocks.vectors import VectorRows, Vectors
from retentive.retrieval.encoders.protocol import parts_of
from retentive.retrieval.index.protocol import Ranking, VectorsIdentity, nothing
from retentive.retrieval.search.searcher import identity_of, vector_rows
from retentive.retrieval.store import Datastore

MOST_ANSWERS = 16_384
"""The largest number of answers that a Milvus server gives for one query."""

_BYTES_OF_A_CALL = 8 << 20
_QUERIES_OF_A_CALL = 256
_ID, _VECTOR = "id", "vector"
_OWNER = "retentive"


class MilvusVectors:
    """Vectors of one version of a store in a collection of a Milvus server, cluster or file.

    Args:
        uri: Address of the server, as ``http://host:19530``, or the path of a file that ends in ``.db``.
        collection: Name of the collection, as `collection_name` gives it.
        token: For a server with authentication, as ``user:password``.
        effort: Search effort of the index: ``ef`` of HNSW, ``nprobe`` of inverted lists.

    Raises:
        ImportError: If pymilvus is not installed.
        ConnectionError: If there is no server.
        MismatchError: If it has no such collection, or one that this library did not make.
    """

    def __init__(self, uri: str, collection: str, *, token: str = "", effort: int = 128) -> None:
        self.uri = uri
        self.collection = collection
        self._effort = effort
        self._client = _client(uri, token)
        if not self._client.has_collection(collection):
            raise MismatchError(f"{uri} has no collection {collection!r}: upload the store's vectors first.")
        self.identity = _identity(self._client, uri, collection)
        self._client.load_collection(collection)

    def search(self, queries: Vectors, k: int) -> Ranking:
        """The ``k`` nearest vectors of each query.

        Raises:
            ValueError: If ``k`` is more than Milvus can give.
        """
        scores, ids = nothing(len(queries), k)
        if k == 0:
            return scores, ids
        if k > MOST_ANSWERS:
            raise ValueError(f"k must be at most {MOST_ANSWERS} for Milvus, but is {k}.")
        params = {"ef": max(self._effort, k), "nprobe": self._effort}
        for begin in range(0, len(queries), _QUERIES_OF_A_CALL):
            some = queries[begin : begin + _QUERIES_OF_A_CALL]
            found = self._client.search(
                self.collection, data=list(some), limit=k, output_fields=[_ID], search_params={"params": params}
            )
            for row, hits in enumerate(found, start=begin):
                for place, hit in enumerate(hits):
                    scores[row, place], ids[row, place] = -hit["distance"], hit[_ID]
        return scores, ids

    @property
    def most_answers(self) -> int:
        """The largest number of answers for one query."""
        return MOST_ANSWERS

    def close(self) -> None:
        """Close the connection; a file can then be opened by another process."""
        self._client.close()


def collection_name(store: Datastore) -> str:
    """The collection's name for a version of a store; other text, chunks or vectors give another name."""
    vectors = store.manifest.settings["vectors"]
    return "retentive_" + key_of("milvus", store.manifest.corpus_key, vectors["fingerprint"])


def upload_vectors(
    store: Datastore,
    uri: str,
    *,
    token: str = "",
    index_type: str = "HNSW",
    index_params: dict[str, Any] | None = None,
    effort: int = 128,
) -> MilvusVectors:
    """Copy a store's vectors to Milvus, or resume an interrupted copy, and return the searchable collection.

    Args:
        store: A store with vectors.
        uri: As for `MilvusVectors`.
        token: As for `MilvusVectors`.
        index_type: As Milvus calls it: ``FLAT``, ``HNSW``, ``IVF_FLAT``, on a server also ``IVF_PQ``, ``DISKANN``.
        index_params: As Milvus calls them; ``None`` takes ``M=32, efConstruction=200`` for HNSW.
        effort: As for `MilvusVectors`.

    Raises:
        ValueError: If the store has words alone.
    """
    _, dense = parts_of(store.encoder)
    if dense is None:
        raise ValueError(f"{str(store.folder)!r} has words alone, and Milvus holds vectors: build with encoder=dense.")
    settings = store.manifest.settings["vectors"]
    rows = vector_rows(store.folder, store.manifest, settings["fingerprint"], settings["dimension"])
    name, client = collection_name(store), _client(uri, token)
    if not client.has_collection(name):
        params = {"M": 32, "efConstruction": 200} if index_type == "HNSW" and index_params is None else index_params
        _make_collection(client, name, rows.dimension, index_type, params or {}, identity_of(store.manifest))
    client.load_collection(name)
    numbers = with_progress(
        range(len(rows.keys)), "upload", total=len(rows), unit="vectors", count=lambda number: len(rows.block(number))
    )
    for number in numbers:
        _upload_block(client, name, rows, number)
    client.flush(name)
    client.close()
    return MilvusVectors(uri, name, token=token, effort=effort)


def _make_collection(
    client: Any, name: str, dimension: int, index_type: str, params: dict[str, Any], identity: VectorsIdentity
) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=_description(identity))
    schema.add_field(_ID, DataType.INT64, is_primary=True)
    schema.add_field(_VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
    index = client.prepare_index_params()
    index.add_index(_VECTOR, index_type=index_type, metric_type="L2", params=params)
    # Milvus in a file keeps no description of a collection, and its properties alone.
    properties = {_OWNER: _description(identity)}
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong", properties=properties)


def _upload_block(client: Any, name: str, rows: VectorRows, number: int) -> None:
    """Copy one block unless its last vector exists; ids are those of chunks, so copying twice changes nothing."""
    begin, end = int(rows.firsts[number]), int(rows.firsts[number + 1])
    if end == begin or client.get(name, ids=[end - 1], output_fields=[_ID]):
        return
    vectors = np.asarray(rows.block(number))
    step = max(1, _BYTES_OF_A_CALL // (4 * rows.dimension))
    for first in range(begin, end, step):
        some = range(first, min(first + step, end))
        client.upsert(name, [{_ID: one, _VECTOR: vectors[one - begin].tolist()} for one in some])


def _description(identity: VectorsIdentity) -> str:
    return canonical_json({"retentive": asdict(identity)})


def _identity(client: Any, uri: str, collection: str) -> VectorsIdentity:
    try:
        found = client.describe_collection(collection)
        return VectorsIdentity(**json.loads(found["description"] or found["properties"][_OWNER])["retentive"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"collection {collection!r} of {uri} does not say whose vectors it holds"
        raise MismatchError(f"{message}: upload the store's vectors with this version (upload_vectors).") from error


def _client(uri: str, token: str) -> Any:
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise ImportError("Milvus needs its client: pip install 'retentive[milvus]'.") from error
    try:
        return MilvusClient(uri, token=token)
    except MilvusException as error:
        raise ConnectionError(f"uri must be that of a Milvus server or a file, but {uri!r} is not: {error}.") from error
