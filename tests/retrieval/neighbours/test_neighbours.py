import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.errors import MismatchError
from retentive.retrieval import Datastore, HybridEncoder, LocalEngine, NeighbourConfig
from retentive.retrieval.blocks.chunking import mix
from retentive.retrieval.neighbours.document_families import document_families
from retentive.retrieval.neighbours.filters import contained, document_keys, make_filter
from retentive.retrieval.neighbours.near_duplicates import chunk_grams, jaccard, minhash, set_jaccard
from retrieval.texts import WORDS, HashedWords, contents, make_documents

ENCODERS = {"lexical": None, "own": HashedWords(), "hybrid": HybridEncoder(HashedWords())}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


def build(folder, documents, **options):
    return Datastore.build(documents, folder, **({"chunk_size": 16, "block_bytes": 900} | options))


def naive_neighbours(store, k, sample_chunks):
    """The same by loops over everything, from the definition."""
    corpus = store.corpus
    ids = np.arange(corpus.num_chunks)
    rows = [tuple(row.tolist()) for row in corpus.tokens(ids)]
    owner = corpus.documents(ids).tolist()
    following = corpus.continuations(ids).tolist()
    sample = owner if sample_chunks is None else [number // sample_chunks for number in ids.tolist()]
    texts = {number: "".join(str(rows[i]) for i in ids if owner[i] == number) for number in set(owner)}
    # By the words that begin in each chunk, which are whole; its tokens alone may cut the last one.
    ranked: list[list[int]] = []
    for block in range(len(store.manifest.chunks)):
        ranked += store.searcher.queries_of_block(block).search(len(ids))[1].tolist()
    table = []
    for chunk in ids.tolist():
        inside = [other for other in ids.tolist() if sample[other] == sample[chunk]]
        barred_texts = {texts[owner[other]] for other in inside}
        barred_rows = {rows[other] for other in inside}
        line = []
        for candidate in ranked[chunk]:
            if candidate < 0 or candidate == chunk or texts[owner[candidate]] in barred_texts:
                continue
            if rows[candidate] in barred_rows:
                continue
            if following[candidate] >= 0 and rows[following[candidate]] in barred_rows:
                continue
            line.append(candidate)
        table.append((line + [-1] * k)[:k])
    return np.array(table).reshape(-1, k)


@pytest.mark.parametrize("sample_chunks", [None, 3, 8])
def test_the_table_is_what_the_definition_says(tmp_path, encoder, sample_chunks):
    documents = make_documents(14, words=20)
    # A copy under another name, and a chunk that stands in several documents.
    documents += [
        ("copy", documents[5][1]),
        ("shared 1", "x" * 16 + "baa bab bac bad"),
        ("shared 2", "lob" * 6 + "x" * 16),
    ]
    store = build(tmp_path / "s", documents, encoder=encoder)
    config = NeighbourConfig(k=3, sample_chunks=sample_chunks, candidates=2)
    table = store.build_neighbours(config)
    ids = np.arange(store.corpus.num_chunks)
    np.testing.assert_array_equal(table.ids(ids), naive_neighbours(store, 3, sample_chunks))
    assert table.missing == (table.ids(ids) < 0).sum()


def assert_nothing_is_given_away(store, table, sample_chunks):
    ids = np.arange(store.corpus.num_chunks)
    neighbours = table.ids(ids)
    continuations = store.corpus.continuations(neighbours)
    owner = store.corpus.documents(ids)
    samples = owner if sample_chunks is None else ids // sample_chunks
    for found in (neighbours, continuations):
        documents = store.corpus.documents(found)
        for sample in np.unique(samples):
            inside = np.unique(owner[samples == sample])
            assert not np.isin(documents[samples == sample], inside).any()
    assert (neighbours != ids[:, None]).all()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_neighbour_and_no_continuation_is_from_the_sample(tmp_path_factory, data):
    count = data.draw(st.integers(1, 6))
    words = st.lists(st.sampled_from(WORDS[:6]), max_size=12).map(" ".join)
    documents = [(str(number), data.draw(words)) for number in range(count)]
    sample_chunks = data.draw(st.sampled_from([None, 1, 2, 5]))
    k = data.draw(st.integers(1, 3))
    store = build(tmp_path_factory.mktemp("s") / "s", documents, chunk_size=data.draw(st.integers(1, 16)))
    table = store.build_neighbours(NeighbourConfig(k=k, sample_chunks=sample_chunks, candidates=1))
    assert_nothing_is_given_away(store, table, sample_chunks)
    ids = np.arange(store.corpus.num_chunks)
    tokens = table.tokens(ids)
    assert tokens.shape == (len(ids), k, 2 * store.chunk_size)
    assert (tokens[table.ids(ids) < 0] == -1).all(), "what is missing is never text"
    assert np.isneginf(table.scores(ids)[table.ids(ids) < 0]).all()


def test_one_document_has_no_neighbours(tmp_path, encoder):
    store = build(tmp_path / "s", [("only", "the same words again and again " * 20)], encoder=encoder)
    table = store.build_neighbours(NeighbourConfig(k=2))
    ids = np.arange(len(table))
    assert len(ids) > 10
    assert (table.ids(ids) == -1).all()
    assert (table.tokens(ids) == -1).all()
    assert table.missing == 2 * len(ids)


def test_a_long_document_does_not_crowd_out_others(tmp_path):
    # Every nearer chunk is of the same document: the first 4 candidates, and the next 16, are all refused.
    long = " ".join(["alpha beta gamma delta"] * 60)
    store = build(tmp_path / "s", [("long", long), ("other", "alpha zeta")], chunk_size=23)
    table = store.build_neighbours(NeighbourConfig(k=1, candidates=4))
    (other,) = store.corpus.chunks_of(1)
    assert store.corpus.num_chunks > 40
    assert (table.ids(np.array(store.corpus.chunks_of(0)))[:-1] == other).all()
    capped = store.build_neighbours(NeighbourConfig(k=1, candidates=4, max_candidates=8))
    assert (capped.ids(np.array(store.corpus.chunks_of(0)))[:-1] == -1).all()


def test_near_duplicates_are_removed_on_request(tmp_path):
    random = np.random.default_rng(0)
    words = random.choice(WORDS, size=80).tolist()
    altered = [*words[:40], "different", *words[41:]]
    other = [*random.choice(WORDS, size=40).tolist(), *words[:8]]
    documents = [("a", " ".join(words)), ("b", "shift " + " ".join(altered)), ("c", " ".join(other))]
    store = build(tmp_path / "s", documents, chunk_size=64)
    exact, near = store.build_neighbours(), store.build_neighbours(NeighbourConfig(near_duplicates=0.8))
    chunks = np.array(store.corpus.chunks_of(0))
    assert (store.corpus.documents(exact.ids(chunks)[:, 0]) == 1).all()
    assert not np.isin(store.corpus.documents(near.ids(chunks)), [0, 1]).any()
    assert (store.corpus.documents(near.ids(chunks)) == 2).any()


def test_near_duplicate_chunks_of_different_documents_are_removed(tmp_path):
    random = np.random.default_rng(1)
    shared = " ".join(random.choice(WORDS, size=16).tolist())  # 63 characters
    tails = [" ".join(random.choice(WORDS, size=60).tolist()) for _ in range(2)]
    documents = [("a", shared + "." + tails[0]), ("b", shared + "!" + tails[1]), ("c", shared[:20] + tails[1][:44])]
    store = build(tmp_path / "s", documents, chunk_size=64)
    first, twin = store.corpus.chunks_of(0)[0], store.corpus.chunks_of(1)[0]
    ids = np.array([first])
    assert store.build_neighbours().ids(ids)[0, 0] == twin
    assert twin not in store.build_neighbours(NeighbourConfig(near_duplicates=0.8)).ids(ids)


@given(data=st.data())
def test_jaccard_is_that_of_sets(data):
    rows = st.lists(st.integers(0, 9), min_size=0, max_size=12)
    left, right = data.draw(st.lists(rows, min_size=3, max_size=3)), data.draw(st.lists(rows, min_size=3, max_size=3))
    none = 0xFFFFFFFFFFFFFFFF
    arrays = [np.array([(row + [none] * 12)[:12] for row in side], dtype=np.uint64) for side in (left, right)]
    found = jaccard(*arrays)
    for one, other, value in zip(left, right, found, strict=True):
        union = set(one) | set(other)
        assert value == pytest.approx(len(set(one) & set(other)) / max(len(union), 1))
        assert set_jaccard(np.array(one, dtype=np.uint64), np.array(other, dtype=np.uint64)) == pytest.approx(value)


def test_minhash_estimates_jaccard():
    random = np.random.default_rng(0)
    common = random.integers(0, 2**63, size=(200, 60)).astype(np.uint64)
    for share in (15, 30, 45, 60):
        rest = [random.integers(0, 2**63, size=(200, 60 - share)).astype(np.uint64) for _ in range(2)]
        left, right = (np.concatenate([common[:, :share], own], axis=1) for own in rest)
        estimate = (minhash(left, 128) == minhash(right, 128)).mean(axis=1)
        exact = jaccard(left, right)
        assert abs(estimate.mean() - exact.mean()) < 0.02
        assert np.abs(estimate - exact).max() < 0.2


def test_families_join_copies_across_stores(tmp_path):
    documents = make_documents(10, words=60)
    one = build(tmp_path / "one", documents)
    # The same text under another name, with one word changed.
    text = documents[3][1].split()
    two = build(tmp_path / "two", [("x", " ".join(["changed", *text[1:]])), ("y", "of its own kind " * 9)])
    one.build_neighbours(NeighbourConfig(near_duplicates=0.8), database=two)
    keys = [document_keys(one.corpus)[0], document_keys(two.corpus)[0]]
    left, right = document_families([one.corpus, two.corpus], keys, 0.8)
    assert left[3] == right[0]
    assert len(set(left.tolist()) | set(right.tolist())) == len(set(left.tolist())) + 1


def test_short_chunks_are_near_only_when_equal():
    rows = np.full((3, 20), -1)
    rows[0, :4] = rows[1, :4] = [1, 2, 3, 4]
    rows[2, :4] = [1, 2, 3, 5]
    grams = chunk_grams(rows)
    assert jaccard(grams[:2], grams[1:]).tolist() == [1.0, 0.0]


@given(members=st.sets(st.integers(0, 40)), asked=st.lists(st.integers(0, 60), max_size=40))
def test_members_of_a_set_are_found_and_no_others(members, asked):
    keys = np.sort(mix(np.array(sorted(members), dtype=np.uint64)))
    # Some that differ from a member in their last bits only, which the table of first bits cannot tell apart.
    values = np.concatenate([mix(np.array(asked, dtype=np.uint64)), keys ^ np.uint64(1), keys])
    # By sorting: numpy 2.0 overflows where it makes a table of numbers beyond 2**63.
    np.testing.assert_array_equal(contained(values, keys), np.isin(values, keys, kind="sort"))
    np.testing.assert_array_equal(contained(values[None, ::2], keys), np.isin(values[None, ::2], keys, kind="sort"))


def test_neighbours_in_another_store(tmp_path, encoder):
    documents = make_documents(20)
    trained = build(tmp_path / "trained", documents[:15], encoder=encoder)
    held_out = build(
        tmp_path / "held out", [*documents[15:], documents[3], ("other name", documents[4][1])], encoder=encoder
    )
    table = held_out.build_neighbours(NeighbourConfig(k=2), database=trained)
    ids = np.arange(len(table))
    found = table.ids(ids)
    assert table.database.folder == trained.folder
    assert (found >= 0).any()
    # A document of the same name, and one of the same text, are no neighbours of themselves.
    owners = trained.corpus.documents(found)
    numbers = {name: number for number, name in held_out.corpus.names()}
    assert 3 not in owners[np.array(held_out.corpus.chunks_of(numbers["folder/3.txt"]))]
    assert 4 not in owners[np.array(held_out.corpus.chunks_of(numbers["other name"]))]
    again = held_out.neighbours(NeighbourConfig(k=2), database=trained)
    np.testing.assert_array_equal(again.ids(ids), found)
    np.testing.assert_array_equal(table.tokens(ids), trained.tokens(found))


def test_stores_that_do_not_fit_are_refused(tmp_path):
    one, two = build(tmp_path / "one", make_documents(3)), build(tmp_path / "two", make_documents(3), chunk_size=8)
    with pytest.raises(MismatchError, match=r"both stores must have the same chunk size, but have 16 and 8"):
        one.build_neighbours(database=two)


def test_a_table_is_the_same_from_any_number_of_workers_and_any_block_size(tmp_path, encoder):
    one, two = build(tmp_path / "one", make_documents(20), encoder=encoder), None
    two = build(tmp_path / "two", make_documents(20), encoder=encoder)
    one.build_neighbours()
    two.build_neighbours(engine=LocalEngine(workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    three = build(tmp_path / "three", make_documents(20), encoder=encoder, block_bytes=1 << 20)
    ids = np.arange(len(one))
    np.testing.assert_array_equal(three.build_neighbours().ids(ids), one.neighbours().ids(ids))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, but is 0"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"sample_chunks": 0}, "sample_chunks must be at least 1 chunk, but is 0"),
        ({"near_duplicates": 1.5}, "near_duplicates must be above 0 and at most 1, but is 1.5"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NeighbourConfig(**options)


def test_filtering_is_done_for_all_rows_at_once(tmp_path):
    store = build(tmp_path / "s", make_documents(30))
    keys = document_keys(store.corpus)
    random = np.random.default_rng(0)
    for block in range(len(store.corpus.blocks)):
        chosen = make_filter(store.corpus, keys, store.corpus, keys, block, 4, None)
        ids = random.integers(-1, len(store), (len(chosen.query_ids), 7))
        together = chosen(np.arange(len(ids)), ids)
        for row in range(len(ids)):
            np.testing.assert_array_equal(chosen(np.array([row]), ids[row : row + 1])[0], together[row])
