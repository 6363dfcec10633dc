import re

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.files import progress
from retentive.retrieval.blocks.block import read_block, write_block
from retentive.retrieval.blocks.vectors import VECTORS, VectorRows
from retentive.retrieval.engines.engine import LocalEngine
from retentive.retrieval.index.choice import IndexConfig, choose_index, code_bytes, inverted_lists, rotated_dimension
from retentive.retrieval.index.faiss_build import build_vector_index, exact_neighbours
from retentive.retrieval.index.vector_index import VectorIndex
from retrieval.texts import HashedWords, clustered, contents

SIZES = [0, 700, 1, 1300, 1000]


def quiet(line):
    pass


def write_vectors(folder, vectors, sizes):
    edges = np.cumsum([0, *sizes])
    keys = [f"{number}" for number in range(len(sizes))]
    for key, begin, end in zip(keys, edges[:-1], edges[1:], strict=True):
        write_block(folder, VECTORS, key, {"vectors": vectors[begin:end]})
    return VectorRows(folder, keys, sizes, vectors.shape[1])


@pytest.fixture(scope="module")
def vectors():
    return clustered(sum(SIZES), 32)


@pytest.fixture
def rows(tmp_path, vectors):
    yield write_vectors(tmp_path, vectors, SIZES)
    read_block.cache_clear()


FACTORIES = ["Flat", "HNSW16", "IVF16,Flat", "IVF16,SQ8", "IVF16_HNSW8,SQ8", "IVF16,PQ8np", "IVF16,PQ16x4fs"]
# Learning the rotation takes 10 s whatever the size.
OPQ = pytest.param("OPQ8_16,IVF16,PQ8np", marks=pytest.mark.slow)


@pytest.mark.parametrize("factory", [*FACTORIES, OPQ])
def test_every_kind_of_index_reaches_its_recall(tmp_path, rows, vectors, factory):
    lines: list[str] = []
    record = build_vector_index(tmp_path, rows, IndexConfig(factory=factory, rows_per_shard=900), say=lines.append)
    assert lines[0] == f"index {factory}: chosen by factory={factory!r}"
    assert "recall@10 against exact search" in lines[1]
    index = VectorIndex(tmp_path, [record], rows)
    scores, ids = index.search(vectors[:200], 11)
    exact = exact_neighbours(rows, vectors[:200], 11)
    found = np.mean([len(set(one) & set(other)) for one, other in zip(ids[:, 1:], exact[:, 1:], strict=True)]) / 10
    assert record.facts["recall"] >= 0.95
    assert found >= 0.9
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    if factory in ("Flat", "IVF16,Flat", "HNSW16") or record.facts["exact_again"]:
        true = -np.square(vectors[:200, None] - vectors[ids]).sum(axis=-1)
        np.testing.assert_allclose(scores, true, atol=1e-5)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF16,SQ8", "IVF16,PQ8np", OPQ])
def test_an_index_is_a_pure_function_of_its_vectors(tmp_path, vectors, factory):
    for name, threads in (("a", 1), ("b", 2)):
        faiss.omp_set_num_threads(threads)
        (tmp_path / name).mkdir()
        build_vector_index(
            tmp_path / name, write_vectors(tmp_path / name, vectors, SIZES), IndexConfig(factory=factory), say=quiet
        )
    faiss.omp_set_num_threads(1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("factory", ["IVF16,SQ8", "IVF16,PQ8np", OPQ])
def test_shards_merged_equal_a_single_build(tmp_path, vectors, factory, on_disk):
    answers, files = [], []
    for name, shard, workers in (("one", 10**6, 1), ("many", 500, 1), ("spread", 500, 2)):
        (tmp_path / name).mkdir()
        rows = write_vectors(tmp_path / name, vectors, SIZES)
        config = IndexConfig(factory=factory, on_disk=on_disk, rows_per_shard=shard)
        record = build_vector_index(tmp_path / name, rows, config, engine=LocalEngine(workers), say=quiet)
        assert ("index.ivfdata" in record.files) == on_disk
        index = VectorIndex(tmp_path / name, [record], rows)
        answers.append(index.search(vectors[::17], 12))
        files.append({path: content for path, content in contents(tmp_path / name).items() if "index" in path})
    for scores, ids in answers[1:]:
        np.testing.assert_array_equal(ids, answers[0][1])
        np.testing.assert_array_equal(scores, answers[0][0])
    assert files[1].keys() == files[2].keys()
    assert {name: value for name, value in files[1].items() if "shards" not in name} == {
        name: value for name, value in files[2].items() if "shards" not in name
    }


def test_an_index_on_disk_may_be_moved_and_read_only(tmp_path, rows, vectors):
    record = build_vector_index(tmp_path, rows, IndexConfig(factory="IVF16,Flat", on_disk=True), say=quiet)
    expected = VectorIndex(tmp_path, [record], rows).search(vectors[:20], 5)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "store"
    moved.mkdir()
    (tmp_path / "index").rename(moved / "index")
    (tmp_path / VECTORS).rename(moved / VECTORS)
    for file in (moved / "index").rglob("*.*"):
        file.chmod(0o444)
    read_block.cache_clear()
    there = VectorRows(moved, rows.keys, SIZES, 32)
    scores, ids = VectorIndex(moved, [record], there).search(vectors[:20], 5)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 40), k=st.integers(1, 50), parts=st.integers(1, 3))
def test_parts_together_are_exact_search(tmp_path_factory, count, k, parts):
    folder = tmp_path_factory.mktemp("v")
    vectors = clustered(count, 8, clusters=4) if count else np.zeros((0, 8), dtype=np.float32)
    sizes = [len(part) for part in np.array_split(np.arange(count), parts)]
    rows = write_vectors(folder, vectors, sizes)
    records = [
        build_vector_index(folder, rows.part(block, 1), IndexConfig(), first_block=block, say=quiet)
        for block in range(parts)
    ]
    queries = clustered(7, 8, clusters=4, seed=1)
    scores, ids = VectorIndex(folder, records, rows).search(queries, k)
    exact = np.sort(-np.square(queries[:, None] - vectors[None]).sum(axis=-1), axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(scores[:, : exact.shape[1]], exact, atol=1e-5)
    assert (ids[:, exact.shape[1] :] == -1).all()
    assert np.isneginf(scores[:, exact.shape[1] :]).all()
    read_block.cache_clear()


def test_asking_for_more_than_usual_finds_more(tmp_path, rows, vectors):
    record = build_vector_index(tmp_path, rows, IndexConfig(factory="IVF64,Flat"), say=quiet)
    index = VectorIndex(tmp_path, [record], rows)
    _, ids = index.search(vectors[:5], 2000)
    assert (ids >= 0).sum(axis=1).min() > 1500, "lists enough for the answers are searched"


def test_the_choice_follows_size_memory_and_recall():
    def factory(rows, **options):
        return choose_index(rows, 384, IndexConfig(**options)).factory

    assert [factory(rows) for rows in (0, 1, 3, 100, 50_000)] == ["Flat"] * 5
    assert factory(200_000) == "HNSW32"
    assert factory(200_000, memory_limit=100 << 20) == "IVF2048,SQ8"
    assert factory(200_000, memory_limit=10 << 20) == "OPQ32_128,IVF2048,PQ32np"
    assert factory(10_000, memory_limit=1 << 20) == "OPQ32_128,IVF512,PQ32np"
    assert factory(20_000_000) == "IVF262144_HNSW32,SQ8"
    assert factory(5_000_000_000) == "OPQ32_128,IVF4194304_HNSW32,PQ32np"
    choice = choose_index(5_000_000_000, 384, IndexConfig())
    assert choice.on_disk
    assert choice.exact_again
    assert choice.training_rows == 64 * 4_194_304
    assert "exceed the memory limit of 8.0 GiB" in choice.reason


@given(dimension=st.integers(1, 2000), rows=st.integers(1, 10**10))
def test_chosen_sizes_fit_each_other(dimension, rows):
    code, kept = code_bytes(dimension), rotated_dimension(dimension)
    assert kept % code == 0
    assert kept <= dimension
    assert 1 <= inverted_lists(rows) <= max(rows, 1) * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 0.0}, "recall must be above 0 and at most 1, but is 0.0"),
        ({"memory_limit": 0}, "memory_limit must be at least 1, but is 0"),
        ({"rows_per_shard": 0}, "rows_per_shard must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        IndexConfig(**options)


def test_a_factory_that_needs_more_vectors_is_refused(tmp_path, rows):
    with pytest.raises(ValueError, match=r"factory 'IVF4096,Flat' needs at least 4096 vectors .* but there are 3001"):
        build_vector_index(tmp_path, rows, IndexConfig(factory="IVF4096,Flat"), say=quiet)


def test_packed_codes_on_disk_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match=r"on_disk must be False for factory 'IVF16,PQ16x4fs'"):
        build_vector_index(tmp_path, rows, IndexConfig(factory="IVF16,PQ16x4fs", on_disk=True), say=quiet)


def with_equal_vectors(count):
    """Vectors of which most are the same: a graph over them falls apart."""
    vectors = clustered(count, 32)
    vectors[: count // 2] = vectors[0]
    return vectors


def test_a_wanted_recall_that_a_given_factory_does_not_reach_is_told(tmp_path):
    lines: list[str] = []
    rows = write_vectors(tmp_path, with_equal_vectors(2500), [2500])
    record = build_vector_index(tmp_path, rows, IndexConfig(factory="HNSW4", recall=1.0), say=lines.append)
    assert record.facts["recall"] < 1.0
    assert "stays below the wanted 1.0 with HNSW4" in lines[-1]


def test_a_finer_index_is_built_until_the_recall_holds(tmp_path, monkeypatch):
    from retentive.retrieval.index import choice

    lines: list[str] = []
    monkeypatch.setattr(choice, "FLAT_LIMIT", 1000)
    monkeypatch.setattr(choice, "HNSW_LINKS", 4)
    rows = write_vectors(tmp_path, with_equal_vectors(2500), [1500, 1000])
    record = build_vector_index(tmp_path, rows, IndexConfig(recall=1.0), say=lines.append)
    assert lines[0].startswith("index HNSW4: ")
    assert "the recall of HNSW4 on a sample is below the wanted 1.0" in " ".join(lines)
    assert record.facts["factory"] == "IVF256,Flat"
    assert record.facts["recall"] == 1.0
    index = VectorIndex(tmp_path, [record], rows)
    queries = rows.gather(np.arange(0, 2500, 50))
    scores, _ = index.search(queries, 5)
    exact = np.sort(-np.square(queries[:, None] - rows.gather(np.arange(2500))[None]).sum(-1), axis=1)[:, :-6:-1]
    np.testing.assert_allclose(scores, exact, atol=1e-5)


def test_equal_vectors_count_once_where_recall_is_measured(tmp_path):
    vectors = clustered(1200, 16, clusters=30)
    vectors[:800] = vectors[0]
    rows = write_vectors(tmp_path, vectors, [1200])
    config = IndexConfig(factory="IVF32,SQ4", recall=1.0, recall_sample=150)
    sampled = rows.gather(rows.sample_ids(150, config.seed + 1))
    facts = build_vector_index(tmp_path, rows, config, say=quiet).facts
    assert facts["recall_sample"] == len(np.unique(sampled, axis=0)) < 75


@pytest.mark.slow
def test_twenty_thousand_equal_vectors_among_52_thousand(tmp_path):
    vectors = clustered(52_000, 64, clusters=500)
    vectors[:20_000] = vectors[0]
    rows = write_vectors(tmp_path, vectors, [52_000])
    record = build_vector_index(tmp_path, rows, IndexConfig(), say=quiet)
    queries = vectors[19_999::160]  # one of the equal ones, which any of them answers
    scores, _ = VectorIndex(tmp_path, [record], rows).search(queries, 10)
    tenth = vectors[exact_neighbours(rows, queries, 10)[:, -1]]
    limit = -np.square(queries - tenth).sum(axis=1, keepdims=True)
    assert (scores >= limit - 1e-4).mean() >= 0.95


@pytest.mark.parametrize("factory", ["nonsense", "IVFx,Flat", "PQ7", ""])
def test_a_factory_that_cannot_be_is_refused_before_any_work(tmp_path, factory):
    from retentive.retrieval import Datastore

    def documents():
        raise AssertionError("no document may be read")
        yield

    message = rf"index.factory must be a FAISS factory string for 16 numbers, .*but is '{factory}'"
    with pytest.raises(ValueError, match=message):
        Datastore.build(documents(), tmp_path / "s", encoder=HashedWords(), index=IndexConfig(factory=factory))


def test_faiss_says_nothing_to_standard_output_and_its_training_is_seen_to_go_on(tmp_path, rows, capfd, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.002)
    record = build_vector_index(tmp_path, rows, IndexConfig(factory="IVF16,PQ8np", on_disk=True), say=quiet)
    VectorIndex(tmp_path, [record], rows)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert re.search(r"train the index on [0-9,]+ vectors: 0 s so far", printed.err)


def test_a_full_disk_is_an_error_where_lists_are_mapped_into_memory(tmp_path, rows, monkeypatch):
    import errno
    import os

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    config = IndexConfig(factory="IVF16,Flat", on_disk=True)
    with pytest.raises(OSError, match=r"No space left on device while writing \(cure: free some space"):
        build_vector_index(tmp_path, rows, config, say=quiet)
    monkeypatch.undo()
    assert build_vector_index(tmp_path, rows, config, say=quiet).facts["recall"] >= 0.95


def test_the_training_sample_is_random_and_seeded(rows):
    sample = rows.sample_ids(300, 0)
    np.testing.assert_array_equal(sample, rows.sample_ids(300, 0))
    assert sample.tolist() != rows.sample_ids(300, 1).tolist()
    assert len(set(sample.tolist())) == 300
    assert sample.max() > 2500, "not the first ones"


@pytest.mark.slow
def test_the_default_index_of_200k_clustered_vectors_reaches_its_recall(tmp_path):
    vectors = clustered(200_000, 128, clusters=2000)
    rows = write_vectors(tmp_path, vectors, [50_000] * 4)
    record = build_vector_index(tmp_path, rows, IndexConfig())
    assert record.facts["factory"] == "HNSW32"
    queries = clustered(1000, 128, clusters=2000, seed=0)[:500]
    _, ids = VectorIndex(tmp_path, [record], rows).search(queries, 10)
    exact = exact_neighbours(rows, queries, 10)
    found = np.mean([len(set(one) & set(other)) for one, other in zip(ids, exact, strict=True)]) / 10
    assert found >= 0.95
    assert record.facts["recall"] >= 0.95
