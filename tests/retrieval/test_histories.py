"""A store with any history answers as a fresh store of what is left."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.retrieval import Datastore, HybridEncoder, NeighbourConfig
from retentive.retrieval.verify import verify_store
from retrieval.texts import WORDS, HashedWords

ENCODERS = {"lexical": None, "hybrid": HybridEncoder(HashedWords(), depth=64)}
OPTIONS = {"chunk_size": 16, "block_bytes": 250}
NAMES = [f"{number}.txt" for number in range(6)]
TEXTS = st.lists(st.sampled_from(WORDS[:12]), min_size=1, max_size=14).map(" ".join)
SOURCES = st.dictionaries(st.sampled_from(NAMES), TEXTS, min_size=1)
STEPS = st.one_of(
    st.tuples(st.just("add"), SOURCES),
    st.tuples(st.just("sync"), SOURCES),
    st.tuples(st.just("build"), SOURCES),
    st.tuples(st.just("remove"), st.sets(st.sampled_from(NAMES), min_size=1)),
    st.tuples(st.just("gc"), st.none()),
    st.tuples(st.just("reindex"), st.none()),
)


class History:
    """A store, and what it must hold by the words of its methods."""

    def __init__(self, folder, encoder, source):
        self.folder, self.encoder = folder, encoder
        self.store = Datastore.build(list(source.items()), folder, encoder=encoder, **OPTIONS)
        self.followed, self.added, self.withdrawn = dict(source), {}, set()

    @property
    def expected(self):
        return self.followed | self.added

    def step(self, what, given):
        if what == "add":
            self.store.add(list(given.items()), replace=True)
            for name, text in given.items():
                if self.expected.get(name) != text:
                    self.followed.pop(name, None)
                    self.added[name] = text
            self.withdrawn -= set(given)
        elif what == "sync":
            usable = {name: text for name, text in given.items() if name not in self.withdrawn}
            self.store.sync(list(given.items()))
            same = {name: text for name, text in usable.items() if self.added.get(name) == text}
            self.added = {name: text for name, text in self.added.items() if name not in usable or name in same}
            self.followed = {name: text for name, text in usable.items() if name not in same}
        elif what == "build":
            Datastore.build(list(given.items()), self.folder, encoder=self.encoder, **OPTIONS)
            self.store.refresh()
            self.followed = {
                name: text for name, text in given.items() if name not in self.withdrawn and name not in self.added
            }
        elif what == "remove":
            names = given & set(self.expected)
            self.store.remove(names)
            self.withdrawn |= names
            for name in names:
                self.followed.pop(name, None)
                self.added.pop(name, None)
        else:
            getattr(self.store, what)()


def contents_of(store):
    return {name: store.corpus.text(number) for number, name in store.corpus.names()}


def assert_equal_to_fresh(history, folder):
    """Answers and tables equal those of a store that was built at once of the same documents in the same order."""
    store = history.store
    fresh = Datastore.build([store.corpus.document(number)[:2] for number, _ in store.corpus.names()], folder,
                            encoder=history.encoder, **OPTIONS)  # fmt: skip
    live = store.corpus.live_ids(0, store.corpus.num_chunks)
    np.testing.assert_array_equal(store.corpus.tokens(live), fresh.corpus.tokens(np.arange(len(live))))
    assert len(store) == len(fresh) == len(live)

    def as_fresh(ids):
        return np.where(ids >= 0, store.corpus.live_ranks(np.maximum(ids, 0)), -1)

    queries = [*WORDS[:4], " ".join(WORDS[:5]), *list(contents_of(store).values())[:2]]
    ours, theirs = store.search(queries, k=5), fresh.search(queries, k=5)
    np.testing.assert_array_equal(as_fresh(ours.ids), theirs.ids)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-5)
    for query in (
        f"{WORDS[0]} -{WORDS[1]}",
        f'"{WORDS[2]} {WORDS[3]}" {WORDS[0]}',
        f'{WORDS[4]} -"{WORDS[0]} {WORDS[1]}"',
    ):
        shown = [[(one.text, one.document) for one in each.answers(query, k=4)] for each in (store, fresh)]
        assert shown[0] == shown[1], query
    config = NeighbourConfig(sample_chunks=3, near_duplicates=0.8)
    tables = [one.build_neighbours(config).ids(ids) for one, ids in ((store, live), (fresh, np.arange(len(live))))]
    np.testing.assert_array_equal(as_fresh(tables[0]), tables[1])


@pytest.mark.parametrize("encoder", ENCODERS)
@settings(deadline=None, max_examples=6)
@given(source=SOURCES, steps=st.lists(STEPS, min_size=1, max_size=4))
def test_a_store_with_a_history_equals_a_fresh_one_of_what_is_left(tmp_path_factory, encoder, source, steps):
    folder = tmp_path_factory.mktemp("s")
    history = History(folder / "lived", ENCODERS[encoder], source)
    for what, given_ in steps:
        history.step(what, given_)
        assert contents_of(history.store) == history.expected, what
    if history.expected:
        assert_equal_to_fresh(history, folder / "fresh")
    assert verify_store(folder / "lived") == []
