"""Building FAISS indexes: trained on a sample, built in shards, merged, and measured against exact search."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from retentive.extras import require
from retentive.files.progress import still_working, with_progress
from retentive.retrieval.blocks.block import key_of
from retentive.retrieval.blocks.sealed_folder import folder_record, sealed_folder
from retentive.retrieval.blocks.vectors import VectorRows, Vectors
from retentive.retrieval.engines.engine import Engine, LocalEngine
from retentive.retrieval.index.choice import IndexChoice, IndexConfig, choose_index, finer_index, vectors_needed
from retentive.retrieval.index.faiss_files import INDEX_FILE, LISTS_FILE, merge_on_disk, write_index
from retentive.retrieval.index.faiss_index import CANDIDATES_AGAIN, FACTS_FILE, INDEX, FaissIndex, read_facts
from retentive.retrieval.index.protocol import Say
from retentive.retrieval.manifest import FolderRecord

SHARDS = "shards"


class FaissKind:
    """FAISS as a kind of index: `choose_index` decides which of its indexes fits."""

    folder = INDEX

    def build(
        self, store: Path, vectors: VectorRows, config: IndexConfig, *, first_block: int, engine: Engine, say: Say
    ) -> FolderRecord:
        """Build the index of a run of blocks, or find the finished one."""
        return build_vector_index(store, vectors, config, first_block=first_block, engine=engine, say=say)

    def open(self, store: Path, key: str, vectors: VectorRows) -> FaissIndex:
        """Open a finished index."""
        return FaissIndex.open(store, key, vectors)


def build_vector_index(
    folder: Path,
    vectors: VectorRows,
    config: IndexConfig,
    *,
    first_block: int = 0,
    engine: Engine | None = None,
    say: Say = print,
) -> FolderRecord:
    """Build the index of a run of blocks, or find the finished one; a pure function of vectors and config.

    Args:
        folder: Folder of the store.
        vectors: What is indexed; ids in the index are numbers of this run.
        config: Options of the index.
        first_block: Number of the run's first block in the store.
        engine: Where shards are built.
        say: Called with the choice and its reason, and with the recall.
    """
    require("faiss", "a vector index")
    if first_block > 0 and config.factory is not None and len(vectors) < vectors_needed(config.factory):
        config = replace(config, factory=None)  # an addition that is too small for the store's own kind of index
    choice = choose_index(len(vectors), vectors.dimension, config)
    measured = [config.recall, config.recall_at, config.recall_sample]
    key = key_of(INDEX, vectors.keys, choice.factory, choice.on_disk, config.seed, measured)
    record = folder_record(folder, INDEX, key, first_block=first_block, num_blocks=len(vectors.keys))
    if record is not None:
        return replace(record, facts=read_facts(folder, key))
    with sealed_folder(folder, INDEX, key) as temporary:
        facts = _build_until_recall_holds(folder, temporary, vectors, choice, config, engine or LocalEngine(), say)
        (temporary / FACTS_FILE).write_text(json.dumps(facts, sort_keys=True, indent=1) + "\n")
    record = folder_record(folder, INDEX, key, first_block=first_block, num_blocks=len(vectors.keys))
    assert record is not None, "a folder that was just sealed is undamaged"
    return replace(record, facts=facts)


def _build_until_recall_holds(
    folder: Path,
    temporary: Path,
    vectors: VectorRows,
    choice: IndexChoice,
    config: IndexConfig,
    engine: Engine,
    say: Say,
) -> dict[str, Any]:
    """Build the chosen index, and finer ones while its recall on a sample stays below the wanted one."""
    while True:
        say(f"index {choice.factory}: {choice.reason}")
        if choice.effort == "nprobe":
            index = _build_in_shards(folder, temporary, vectors, choice, config, engine)
        else:
            index = _build_at_once(temporary, vectors, choice.factory)
        facts = {"factory": choice.factory, "reason": choice.reason, "rows": len(vectors), "effort": choice.effort}
        facts |= {"training_rows": choice.training_rows, "on_disk": choice.on_disk}
        facts |= measure_recall(index, vectors, choice, config, say)
        finer = None if facts.pop("holds") else finer_index(choice, len(vectors), vectors.dimension, config)
        if finer is None:
            return facts
        choice = finer
        del index
        for path in temporary.iterdir():
            path.unlink()


@contextmanager
def _reproducible(factory: str) -> Generator[None]:
    """Use one thread to build a graph or learn a rotation: with more, the result is not reproducible."""
    import faiss

    threads = faiss.omp_get_max_threads()
    if "HNSW" in factory or "OPQ" in factory:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _build_at_once(temporary: Path, vectors: VectorRows, factory: str) -> Any:
    import faiss

    index = faiss.index_factory(vectors.dimension, factory, faiss.METRIC_L2)
    with _reproducible(factory):
        for block in with_progress(vectors.blocks(), "index vectors", total=len(vectors), unit="vectors", count=len):
            index.add(np.ascontiguousarray(block))
    write_index(index, temporary / INDEX_FILE)
    return index


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard: a run of blocks, added to a copy of the trained index.

    Attributes:
        key: Key of the shard.
        vectors: Its vectors.
        first_id: Number of its first vector in the whole index.
    """

    key: str
    vectors: VectorRows
    first_id: int


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Builds shards.

    Attributes:
        folder: Folder of the store.
        trained: Name of the trained, empty index.
        factory: Its factory string.
    """

    folder: Path
    trained: str
    factory: str

    def __call__(self, job: ShardJob) -> str:
        """Build one shard unless it exists, and return its key."""
        import faiss

        if folder_record(self.folder, SHARDS, job.key) is None:
            with sealed_folder(self.folder, SHARDS, job.key) as temporary, _reproducible(self.factory):
                index = faiss.read_index(str(self.folder / SHARDS / self.trained / INDEX_FILE))
                begin = job.first_id
                for block in job.vectors.blocks():
                    index.add_with_ids(np.ascontiguousarray(block), np.arange(begin, begin + len(block)))
                    begin += len(block)
                write_index(index, temporary / INDEX_FILE)
        return job.key


def _build_in_shards(
    folder: Path, temporary: Path, vectors: VectorRows, choice: IndexChoice, config: IndexConfig, engine: Engine
) -> Any:
    import faiss

    trained = train_index(folder, vectors, choice, config)
    jobs = shard_jobs(vectors, trained, config.rows_per_shard)
    built = engine.map(ShardTask(folder, trained, choice.factory), jobs)
    shards = list(with_progress(built, "index vectors", total=len(jobs), unit="shards"))
    files = [folder / SHARDS / shard / INDEX_FILE for shard in shards]
    index = faiss.read_index(str(folder / SHARDS / trained / INDEX_FILE))
    if choice.on_disk:
        with still_working(f"merge {len(files)} shards"):
            merge_on_disk(index, files, temporary / LISTS_FILE)
        lists: Any = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)  # pyright: ignore[reportArgumentType]
        path, lists.filename = lists.filename, LISTS_FILE  # the written file must not depend on a temporary name
        write_index(index, temporary / INDEX_FILE)
        lists.filename = path
    else:
        for file in with_progress(files, "merge", total=len(files), unit="shards"):
            index.merge_from(faiss.read_index(str(file)), 0)
        write_index(index, temporary / INDEX_FILE)
    return index


def train_index(folder: Path, vectors: VectorRows, choice: IndexChoice, config: IndexConfig) -> str:
    """Train an empty index on the random sample, or find the trained one; return its key."""
    import faiss

    key = key_of("trained", vectors.keys, choice.factory, choice.training_rows, config.seed)
    if folder_record(folder, SHARDS, key) is None:
        with sealed_folder(folder, SHARDS, key) as temporary, _reproducible(choice.factory):
            index = faiss.index_factory(vectors.dimension, choice.factory, faiss.METRIC_L2)
            if len(vectors) > 0:
                sample = vectors.gather(vectors.sample_ids(choice.training_rows, config.seed))
                with still_working(f"train the index on {len(sample):,} vectors"):
                    index.train(sample)
            write_index(index, temporary / INDEX_FILE)
    return key


def shard_jobs(vectors: VectorRows, trained: str, rows_per_shard: int) -> list[ShardJob]:
    """Divide blocks into runs of about ``rows_per_shard`` vectors."""
    jobs: list[ShardJob] = []
    first = 0
    for block in range(len(vectors.keys)):
        rows = int(vectors.firsts[block + 1] - vectors.firsts[first])
        if rows >= rows_per_shard or block + 1 == len(vectors.keys):
            part = vectors.part(first, block + 1 - first)
            begin = int(vectors.firsts[first])
            jobs.append(ShardJob(key_of(SHARDS, trained, part.keys, begin), part, begin))
            first = block + 1
    return jobs


def measure_recall(
    index: Any, vectors: VectorRows, choice: IndexChoice, config: IndexConfig, say: Say
) -> dict[str, Any]:
    """Measure the recall on a random sample, and raise the effort until it is clearly above the wanted one.

    Recall is the share of answers, the vector itself left out, that are as near as the ``recall_at`` nearest ones.
    Equal vectors count once in it: any of them answers for all, and many would hide a low recall of the others.

    Returns:
        ``recall`` (``None`` without vectors to compare), ``recall_at``, ``recall_sample``, ``effort_value``,
        ``exact_again`` and ``holds``, whether the recall is as wanted.
    """
    import faiss

    ids = _distinct(vectors, vectors.sample_ids(config.recall_sample, config.seed + 1))
    wanted = min(config.recall_at, len(vectors) - 1)
    lists = faiss.extract_index_ivf(index).nlist if choice.effort == "nprobe" else 0
    efforts = {"nprobe": [min(lists, 1 << power) for power in range(2, 24)], "efSearch": [32, 64, 128, 256, 512, 1024]}
    values = sorted(set(efforts.get(choice.effort, [0])))
    again = CANDIDATES_AGAIN if choice.exact_again else 0
    tries = [(value, again) for value in values]
    if again:  # after the widest search more candidates are compared with the vectors themselves
        tries += [(values[-1], 4 * again), (values[-1], 16 * again)]
    facts: dict[str, Any] = {"recall": None, "recall_at": wanted, "recall_sample": len(ids)}
    facts |= {"effort_value": values[0], "exact_again": again, "holds": True}
    if wanted < 1:
        return facts
    queries = vectors.gather(ids)
    limit = exact_scores(vectors, queries, wanted + 1)[:, -1:]
    limit = limit - 1e-5 * np.maximum(1.0, np.abs(limit))
    searched = FaissIndex(index, vectors, effort=choice.effort, effort_value=0, exact_again=again)
    for value, again in with_progress(tries, "raise recall", total=len(tries), unit="efforts"):
        searched.set_effort(value, again)
        scores, found = searched.search(queries, wanted + 1)
        near = (scores >= limit) & (found != ids[:, None])
        shares = np.minimum(near.sum(axis=1), wanted) / wanted
        facts["recall"] = round(float(shares.mean()), 4)
        facts |= {"effort_value": value, "exact_again": again}
        # Three standard errors above the wanted recall: that of all vectors is then very unlikely to lie below it,
        # though the first of several efforts is taken whose sample says so.
        facts["holds"] = bool(shares.mean() - 3 * shares.std() / len(ids) ** 0.5 >= config.recall)
        if facts["holds"]:
            break
    effort = f" at {choice.effort} {facts['effort_value']}" if choice.effort else ""
    say(f"recall@{wanted} against exact search, {len(ids)} queries: {facts['recall']:.3f}{effort}")
    if not facts["holds"]:
        say(f"recall@{wanted} stays below the wanted {config.recall} with {choice.factory}, or too near to tell")
    return facts


def _distinct(vectors: VectorRows, ids: Int64[np.ndarray, "_"]) -> Int64[np.ndarray, "_"]:
    """The first of some vectors and of each that differs from those before it."""
    _, first = np.unique(vectors.gather(ids), axis=0, return_index=True)
    return ids[np.sort(first)]


def exact_scores(vectors: VectorRows, queries: Vectors, k: int) -> Float32[np.ndarray, "queries k"]:
    """The ``k`` highest scores of each query over all vectors, block by block."""
    import faiss

    found = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    for block in with_progress(vectors.blocks(), "measure recall", total=len(vectors), unit="vectors", count=len):
        if len(block) > 0:
            distances, _ = faiss.knn(queries, np.ascontiguousarray(block), min(k, len(block)))
            found = -np.sort(-np.concatenate([found, -distances], axis=1), axis=1)[:, :k]
    return found


def exact_neighbours(vectors: VectorRows, queries: Vectors, k: int) -> Int64[np.ndarray, "queries k"]:
    """Ids of the ``k`` nearest vectors of each query, by exact search of every block."""
    import faiss

    scores = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    ids = np.full((len(queries), 0), -1, dtype=np.int64)
    for number, block in enumerate(vectors.blocks()):
        if len(block) > 0:
            distances, rows = faiss.knn(queries, np.ascontiguousarray(block), min(k, len(block)))
            scores = np.concatenate([scores, -distances], axis=1)
            ids = np.concatenate([ids, rows + vectors.firsts[number]], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return ids
