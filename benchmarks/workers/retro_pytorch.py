"""The works of the ``retro-pytorch`` package (0.3.9): its own functions, stage by stage, with our encoder's files.

It fetches ``bert-base-cased`` from a hub; its two globals are given the local model instead, so nothing of its code is
changed. Printing, which it does for every batch, goes nowhere.
"""

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from retro_pytorch import retrieval
from retro_pytorch.data import knn_to_retrieved_chunks
from transformers import AutoModel, AutoTokenizer

from benchmarks.racing.worker import Work

CHUNK_SIZE, NEIGHBOURS, END = 64, 2, retrieval.EOS_ID


def works(*, model: str, text: str, place: str, chunks: int, threads: int) -> Mapping[str, Callable[..., Work]]:
    """The works over one folder of text, with the options of `benchmarks.workers.retentive_store.works`."""
    torch.set_num_threads(threads)
    Path(place).mkdir(parents=True, exist_ok=True)
    os.chdir(place)  # its index lies in a folder below the working directory
    retrieval.TOKENIZER = AutoTokenizer.from_pretrained(model)
    retrieval.MODEL = AutoModel.from_pretrained(model).eval()
    pipeline = Pipeline(text, retrieval.MODEL.config.hidden_size)
    return {
        "prepare_all": partial(_once, pipeline.prepare),
        "tokenise": lambda: Work(run=_quiet(pipeline.tokenise), units=pipeline.tokenised()),
        "encode": lambda: Work(run=_quiet(partial(pipeline.encode, chunks)), units=chunks),
        "index": lambda: Work(run=_quiet(pipeline.index), units=pipeline.tokenised()),
        "table": lambda: Work(run=_quiet(pipeline.table), units=pipeline.tokenised()),
        "judge": lambda: Work(run=lambda: None, facts=pipeline.judge()),
        "index_vectors": _index_vectors,
        "search_vectors": _search_vectors,
    }


class Pipeline:
    """Its stages over one folder of text."""

    def __init__(self, text: str, dimension: int) -> None:
        self._text = text
        self._dimension = dimension
        self._paths = {name: f"train.{name}.dat" for name in ("chunks", "seqs", "doc_ids")}
        self._count: int | None = None

    def tokenised(self) -> int:
        """Number of chunks; tokenises if that was not done yet."""
        if self._count is None:
            self._count = int(_quiet(self.tokenise)()["chunks"])
        return self._count

    def tokenise(self) -> dict[str, int]:
        """Text to chunks."""
        paths = {f"{name}_memmap_path": path for name, path in self._paths.items()}
        return retrieval.text_folder_to_chunks_(folder=self._text, glob="**/*.rst", chunk_size=CHUNK_SIZE, **paths)

    def encode(self, chunks: int) -> None:
        """Chunks to vectors, the first so many."""
        target = f"{self._paths['chunks']}.{'embedded' if chunks == self.tokenised() else 'sample'}"
        retrieval.chunks_to_embeddings_(
            num_chunks=chunks,
            chunks_memmap_path=self._paths["chunks"],
            embeddings_memmap_path=target,
            chunk_size=CHUNK_SIZE,
            embed_dim=self._dimension,
        )

    def prepare(self) -> None:
        """Everything that later works read: chunks, all vectors and their index."""
        self.encode(self.tokenised())
        self.index()

    def vectors(self) -> np.ndarray:
        """All vectors, from `prepare`."""
        shape = (self.tokenised(), self._dimension)
        return np.memmap(f"{self._paths['chunks']}.embedded", shape=shape, dtype=np.float32, mode="r")

    def index(self) -> Any:
        """Vectors to an index, through the files that autofaiss reads."""
        retrieval.memmap_file_to_chunks_(
            f"{self._paths['chunks']}.embedded",
            shape=(self.tokenised(), self._dimension),
            dtype=np.float32,
            folder=retrieval.EMBEDDING_TMP_SUBFOLDER,
        )
        return retrieval.index_embeddings(embeddings_folder=retrieval.EMBEDDING_TMP_SUBFOLDER)

    def table(self) -> Path:
        """Neighbours of every chunk: its search, filter and file, over the finished index."""
        index = retrieval.faiss_read_index(retrieval.INDEX_FOLDER_PATH / "knn.index")
        made = retrieval.chunks_to_index_and_embed
        retrieval.chunks_to_index_and_embed = lambda **_: (index, self.vectors())
        try:
            path, _ = retrieval.chunks_to_precalculated_knn_(
                num_nearest_neighbors=NEIGHBOURS,
                num_chunks=self.tokenised(),
                chunk_size=CHUNK_SIZE,
                chunk_memmap_path=self._paths["chunks"],
                doc_ids_memmap_path=self._paths["doc_ids"],
                force_reprocess=True,
            )
        finally:
            retrieval.chunks_to_index_and_embed = made
        return path

    def judge(self) -> dict[str, float]:
        """What is wrong with its neighbours, and their recall."""
        count, vectors = self.tokenised(), np.ascontiguousarray(self.vectors())
        table = np.fromfile(_quiet(self.table)(), dtype=np.int32).reshape(count, NEIGHBOURS).astype(np.int64)
        documents = np.fromfile(self._paths["doc_ids"], dtype=np.int32)[:count]
        chunks = np.fromfile(self._paths["chunks"], dtype=np.int32)[: count * (CHUNK_SIZE + 1)].reshape(count, -1)
        shown = knn_to_retrieved_chunks(table, chunks.copy(), add_continuations=True, num_chunks=count)
        continued = (shown[..., CHUNK_SIZE:] != 0).any(axis=-1)
        there = table >= 0
        known = np.maximum(table, 0)
        next_document = documents[np.minimum(known + 1, count - 1)]
        empty = ((chunks[:, :CHUNK_SIZE] != 0) & (chunks[:, :CHUNK_SIZE] != END)).sum(axis=1) == 0
        index = retrieval.faiss_read_index(retrieval.INDEX_FOLDER_PATH / "knn.index")
        return {
            "chunks": float(count),
            "same_document": float((there & (documents[known] == documents[:, None])).sum()),
            "wrong_continuation": float((there & continued & (next_document != documents[known])).sum()),
            "lost_continuation": float((there & ~continued & (next_document == documents[known])).sum()),
            "missing": float((~there).sum()),
            "empty_chunks": float(empty.sum()),
            "recall_at_2": recall_at(index, vectors, 2),
        }


def recall_at(index: Any, vectors: np.ndarray, k: int, sample: int = 1000) -> float:
    """Share of the ``k`` exact nearest vectors, the vector itself left out, that the index finds."""
    rows = np.sort(np.random.default_rng(1).choice(len(vectors), min(sample, len(vectors)), replace=False))
    queries = np.ascontiguousarray(vectors[rows])
    distances, _ = faiss.knn(queries, vectors, k + 1)
    limit = distances[:, -1:] + 1e-5 * np.maximum(1.0, np.abs(distances[:, -1:]))
    _, found = index.search(queries, k + 1)
    exact = np.square(vectors[np.maximum(found, 0)] - queries[:, None]).sum(axis=-1)
    near = (found >= 0) & (exact <= limit) & (found != rows[:, None])
    return float(np.minimum(near.sum(axis=1), k).mean() / k)


def _index_vectors(path: str) -> Work:
    """An index over given vectors, as `Pipeline.index` makes it."""
    vectors = np.load(path, mmap_mode="r")

    def run() -> None:
        vectors.tofile("given.dat")
        given = {"shape": vectors.shape, "dtype": np.float32, "folder": "given"}
        retrieval.memmap_file_to_chunks_("given.dat", **given)
        retrieval.index_embeddings("given", index_file="given.index")

    return Work(run=_quiet(run), units=len(vectors))


def _search_vectors(path: str, queries: int, k: int) -> Work:
    vectors = np.load(path)
    index = retrieval.faiss_read_index(retrieval.INDEX_FOLDER_PATH / "given.index")
    asked = vectors[:: len(vectors) // queries][:queries]
    facts = {"recall_at_2": recall_at(index, vectors, 2), "recall_at_10": recall_at(index, vectors, 10)}
    return Work(run=lambda: index.search(asked, k), units=len(asked), facts=facts)


def _once(run: Callable[[], object]) -> Work:
    _quiet(run)()
    return Work(run=lambda: None)


def _quiet(run: Callable[[], Any]) -> Callable[[], Any]:
    def quiet() -> Any:
        with contextlib.redirect_stdout(io.StringIO()), torch.inference_mode():
            return run()

    return quiet
