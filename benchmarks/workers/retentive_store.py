"""The works of the library's datastore: stage by stage, as a build does them, and from end to end."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.racing.worker import Work
from retentive.retrieval import Datastore, DenseEncoder, IndexConfig, LexicalEncoder, LocalEngine, NeighbourConfig
from retentive.retrieval.blocks.block import read_block, write_block
from retentive.retrieval.blocks.chunking import group_documents
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.blocks.vectors import VECTORS, VectorRows, vector_key
from retentive.retrieval.encoders.dense import _side_by_side
from retentive.retrieval.index.faiss_build import build_vector_index, exact_scores
from retentive.retrieval.index.faiss_index import INDEX
from retentive.retrieval.index.vector_index import VectorIndex
from retentive.retrieval.neighbours.filters import make_filter
from retentive.retrieval.neighbours.table import NEIGHBOURS, TABLES
from retentive.retrieval.passages import Passages
from retentive.retrieval.search.searcher import vector_rows
from retentive.retrieval.versions.stages import ChunkTask, EncodeTask, SegmentTask, block_words, segment_jobs

CHUNK_SIZE, CONFIG = 64, NeighbourConfig(k=2)


def works(*, model: str, text: str, place: str, chunks: int, threads: int) -> Mapping[str, Callable[..., Work]]:
    """The works over one folder of text.

    Args:
        model: Folder of the encoder.
        text: Folder of ``.rst`` files.
        place: Folder for everything that is written.
        chunks: How many chunks an encoding repetition encodes.
        threads: OpenMP threads, and processes where a build takes several.
    """
    torch.set_num_threads(threads)
    pipeline = Pipeline(Path(text), Path(place), DenseEncoder(model), threads)
    return {
        "prepare_all": pipeline.prepare,
        "tokenise": pipeline.tokenise,
        "encode": partial(pipeline.encode, chunks),
        "arithmetic": partial(pipeline.arithmetic, chunks),
        "index": pipeline.index,
        "table": partial(pipeline.table, "dense"),
        "query": partial(pipeline.query, "dense"),
        "filter": pipeline.filter,
        "lexical_index": pipeline.lexical_index,
        "lexical_query": pipeline.lexical_query,
        "lexical_table": partial(pipeline.table, "lexical"),
        "lexical_build": pipeline.lexical_build,
        "judge": pipeline.judge,
        "open": pipeline.open,
        "search_one": pipeline.search_one,
        "index_vectors": partial(_index_vectors, Path(place) / "given"),
        "search_vectors": partial(_search_vectors, Path(place) / "given"),
    }


class Pipeline:
    """The stages over one folder of text."""

    def __init__(self, text: Path, place: Path, encoder: DenseEncoder, threads: int) -> None:
        self._place = place
        self._encoder = encoder
        self._engine = LocalEngine(threads)
        self._documents = [(path.name, path.read_text("utf-8")) for path in sorted(text.glob("**/*.rst"))]

    def _store(self, kind: str) -> Datastore:
        encoder = self._encoder if kind == "dense" else LexicalEncoder()
        tokenizer = self._encoder.tokenizer
        return Datastore.build(self._documents, self._place / kind, tokenizer=tokenizer, encoder=encoder)

    def prepare(self, kinds: list[str]) -> Work:
        """Stores with their tables, and the words of every chunk for others to read."""
        stores = {kind: self._store(kind) for kind in kinds}
        lexical = LexicalEncoder()
        rows = [
            [word for word, count in words.items() for _ in range(count)]
            for block in stores[kinds[-1]].manifest.chunks
            for words in block_words(self._place / kinds[-1], block.key, lexical)
        ]
        (self._place / "words.json").write_text(json.dumps(rows))
        return Work(run=lambda: None, facts={"chunks": float(len(rows)), "documents": float(len(self._documents))})

    def tokenise(self) -> Work:
        """Text to chunks on disk."""
        folder = self._place / "tokenise"
        task = ChunkTask(folder, self._encoder.tokenizer, CHUNK_SIZE)

        def run() -> int:
            shutil.rmtree(folder, ignore_errors=True)
            read_block.cache_clear()
            groups = group_documents(self._documents, {}, 1 << 20, "stop", [])
            return sum(task(group)[0].rows for group in groups)

        return Work(run=run, units=run())

    def encode(self, chunks: int) -> Work:
        """Chunks to vectors on disk, as a block of so many."""
        store = self._store("lexical")
        arrays = store.corpus.arrays(0)
        folder = self._place / "encode"
        write_block(folder, "chunks", "0" * 32, {name: arrays[name][:chunks] for name in ("tokens", "lengths")})
        block = store.manifest.chunks[0].__class__(key="0" * 32, rows=chunks, documents=1, tokens=0, checksum="")
        fingerprint = self._encoder.fingerprint()
        task = EncodeTask(folder, self._encoder.tokenizer, self._encoder, fingerprint)

        def run() -> None:
            shutil.rmtree(folder / VECTORS, ignore_errors=True)
            task(block)

        return Work(run=run, units=chunks)

    def arithmetic(self, chunks: int) -> Work:
        """The encoder's network alone, on the same ids without padding, a batch on each core: what none can beat."""
        corpus = self._store("lexical").corpus
        tokens = corpus.block_tokens(0)[:chunks]
        ids, _ = self._encoder._wrap(tokens[(tokens >= 0).all(axis=1)])
        network = self._encoder._network
        batches = np.array_split(ids, max(1, len(ids) // self._encoder.batch_size))

        def forward(batch: np.ndarray) -> None:
            with torch.inference_mode():
                network(input_ids=torch.from_numpy(batch))

        return Work(run=lambda: _side_by_side(forward, batches), units=len(ids))

    def _rows(self) -> VectorRows:
        manifest = self._store("dense").manifest
        return vector_rows(self._place / "dense", manifest, self._encoder.fingerprint(), self._encoder.dimension())

    def index(self) -> Work:
        """Vectors to an index, its recall measured."""
        rows, folder = self._rows(), self._place / "index"

        def run() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            build_vector_index(folder, rows, IndexConfig(), say=lambda _: None)

        return Work(run=run, units=len(rows))

    def table(self, kind: str) -> Work:
        """Neighbours of every chunk: search, filter and files."""
        store = self._store(kind)
        engine = self._engine if kind == "lexical" else LocalEngine()

        def run() -> None:
            for part in (NEIGHBOURS, TABLES):
                shutil.rmtree(store.folder / part, ignore_errors=True)
            read_block.cache_clear()
            store.build_neighbours(CONFIG, engine=engine)

        return Work(run=run, units=len(store))

    def query(self, kind: str) -> Work:
        """Candidates of every chunk, without the filter."""
        store = self._store(kind)

        def run() -> None:
            for block in range(len(store.manifest.chunks)):
                store.searcher.queries_of_block(block).search(CONFIG.candidates)

        return Work(run=run, units=len(store))

    def filter(self) -> Work:
        """The filter alone, on the candidates of every chunk."""
        version = self._store("dense").as_version()
        corpus, keys = version.corpus, version.document_keys
        found = [version.searcher.queries_of_block(b).search(CONFIG.candidates)[1] for b in range(len(corpus.blocks))]

        def run() -> None:
            for block, ids in enumerate(found):
                allowed = make_filter(corpus, keys, corpus, keys, block, CONFIG.sample_chunks, CONFIG.near_duplicates)
                allowed(np.arange(len(ids)), ids)

        return Work(run=run, units=corpus.num_chunks)

    def lexical_index(self) -> Work:
        """Words of every chunk to an index."""
        store, folder = self._store("lexical"), self._place / "lexical_index"
        jobs = segment_jobs(store.manifest.chunks, ())

        def run() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(store.folder / "chunks", folder / "chunks")
            task = SegmentTask(folder, self._encoder.tokenizer, LexicalEncoder())
            for job in jobs:
                task(job)

        return Work(run=run, units=len(store))

    def lexical_query(self, count: int) -> Work:
        """Candidates of some chunks by their words."""
        store = self._store("lexical")
        ids = np.arange(len(store))[:: max(1, len(store) // count)][:count]
        queries = store.searcher.queries(Passages(store.corpus.tokens(ids), store.tokenizer))
        return Work(run=lambda: queries.search(CONFIG.candidates), units=len(ids))

    def lexical_build(self) -> Work:
        """From text to the table of neighbours, with words as keys."""
        folder = self._place / "lexical_build"

        def run() -> int:
            shutil.rmtree(folder, ignore_errors=True)
            read_block.cache_clear()
            tokenizer = self._encoder.tokenizer
            store = Datastore.build(self._documents, folder, tokenizer=tokenizer, engine=self._engine)
            store.build_neighbours(CONFIG, engine=self._engine)
            return len(store)

        return Work(run=run, units=len(self._store("lexical")))

    def judge(self) -> Work:
        """What is wrong with our neighbours, and their recall."""
        store = self._store("dense")
        facts = judged(store)
        facts |= {f"lexical_{name}": value for name, value in judged(self._store("lexical")).items()}
        (record,) = (record for record in store.manifest.indexes if record.kind == INDEX)
        rows = self._rows()
        index = VectorIndex(store.folder, [record], rows)
        return Work(run=lambda: None, facts=facts | {"recall_at_2": recall_at(index, rows, 2)})

    def open(self) -> Work:
        """Open the lexical store."""
        self._store("lexical")
        return Work(run=lambda: Datastore.open(self._place / "lexical"))

    def search_one(self, query: str) -> Work:
        """One search as a person types it, after opening."""
        store = self._store("lexical")
        return Work(run=lambda: store.search(query, k=5))


def judged(store: Datastore) -> dict[str, float]:
    """Neighbours of the chunk's own document, continuations of another document than the neighbour's, and others."""
    corpus: Corpus = store.corpus
    ids = np.arange(corpus.num_chunks)
    table = store.build_neighbours(CONFIG)
    found = table.ids(ids)
    there, own = found >= 0, corpus.documents(ids)[:, None]
    continued = table.tokens(ids)[..., CHUNK_SIZE] >= 0
    following = corpus.documents(np.minimum(np.maximum(found, 0) + 1, corpus.num_chunks - 1))
    documents = corpus.documents(found)
    return {
        "chunks": float(corpus.num_chunks),
        "same_document": float((there & (documents == own)).sum()),
        "wrong_continuation": float((there & continued & (following != documents)).sum()),
        "lost_continuation": float((there & ~continued & (following == documents) & (found + 1 < len(ids))).sum()),
        "missing": float((~there).sum()),
        "empty_chunks": float((corpus.tokens(ids) < 0).all(axis=1).sum()),
    }


def recall_at(index: VectorIndex, rows: VectorRows, k: int, sample: int = 1000) -> float:
    """Share of the ``k`` exact nearest vectors, the vector itself left out, that the index finds."""
    ids = rows.sample_ids(sample, 1)
    queries = rows.gather(ids)
    limit = exact_scores(rows, queries, k + 1)[:, -1:]
    scores, found = index.search(queries, k + 1)
    near = (scores >= limit - 1e-5 * np.maximum(1.0, np.abs(limit))) & (found != ids[:, None])
    return float(np.minimum(near.sum(axis=1), k).mean() / k)


def _given(folder: Path, path: str) -> VectorRows:
    vectors = np.load(path)
    blocks = np.array_split(vectors, max(1, len(vectors) // 50_000))
    keys = [vector_key("given", f"{number} {len(vectors)}") for number in range(len(blocks))]
    for key, block in zip(keys, blocks, strict=True):
        write_block(folder, VECTORS, key, {"vectors": block})
    return VectorRows(folder, keys, [len(block) for block in blocks], vectors.shape[1])


def _index_vectors(folder: Path, path: str) -> Work:
    """An index over given vectors, at the default setting."""
    rows = _given(folder, path)

    def run() -> None:
        shutil.rmtree(folder / INDEX, ignore_errors=True)
        build_vector_index(folder, rows, IndexConfig(), say=lambda _: None)

    return Work(run=run, units=len(rows))


def _search_vectors(folder: Path, path: str, queries: int, k: int) -> Work:
    rows = _given(folder, path)
    record = build_vector_index(folder, rows, IndexConfig(), say=lambda _: None)
    index = VectorIndex(folder, [record], rows)
    asked = np.load(path)[:: len(rows) // queries][:queries]
    facts = {"recall_at_2": recall_at(index, rows, 2), "recall_at_10": recall_at(index, rows, 10)}
    return Work(run=lambda: index.search(asked, k), units=len(asked), facts=facts)
