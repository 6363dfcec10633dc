"""Near duplicates as RETRO means them: nothing similar to any chunk of a training sample's documents is a neighbour."""

import numpy as np
import pytest

from retentive.retrieval import Datastore, NeighbourConfig
from retentive.retrieval.neighbours.near_duplicates import GRAM, MISSED, chunk_bands, document_bands, minhash
from retrieval.texts import WORDS


def runs(tokens):
    """Runs of tokens as the definition has them."""
    tokens = [token for token in tokens if token >= 0]
    if len(tokens) < GRAM:
        return {tuple(tokens)} if tokens else set()
    return {tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1)}


def similarity(left, right):
    return len(left & right) / max(len(left | right), 1)


def naive_near_table(store, k, sample_chunks, threshold):
    """The same by loops over everything, from the definition."""
    corpus = store.corpus
    ids = list(range(corpus.num_chunks))
    rows = corpus.tokens(np.array(ids)).tolist()
    grams = [runs(row) for row in rows]
    owner, following = corpus.documents(np.array(ids)).tolist(), corpus.continuations(np.array(ids)).tolist()
    sample = owner if sample_chunks is None else [number // sample_chunks for number in ids]
    documents = sorted(set(owner))
    whole = {one: runs([token for i in ids if owner[i] == one for token in rows[i]]) for one in documents}
    family = {one: one for one in documents}
    for left in documents:
        for right in documents:
            if family[left] != family[right] and similarity(whole[left], whole[right]) >= threshold:
                family = {one: family[left] if of == family[right] else of for one, of in family.items()}
    found = store.search(corpus.tokens(np.array(ids)), k=len(ids)).ids.tolist()
    table = []
    for chunk in ids:
        inside = {owner[other] for other in ids if sample[other] == sample[chunk]}
        barred = [other for other in ids if owner[other] in inside]
        families = {family[one] for one in inside}

        def given_away(other, barred=barred):
            return other >= 0 and any(similarity(grams[other], grams[one]) >= threshold for one in barred)

        line = [
            one
            for one in found[chunk]
            if one >= 0
            and family[owner[one]] not in families
            and not given_away(one)
            and not given_away(following[one])
        ]
        table.append((line + [-1] * k)[:k])
    return np.array(table)


@pytest.mark.parametrize(("threshold", "sample_chunks"), [(0.3, None), (0.5, 3), (0.8, 3)])
def test_the_table_with_near_duplicates_is_what_the_definition_says(tmp_path, sample_chunks, threshold):
    random = np.random.default_rng(3)
    passages = [" ".join(random.choice(WORDS, size=8).tolist()) for _ in range(6)]
    documents = []
    for number in range(10):
        text = ""
        for _ in range(int(random.integers(1, 6))):
            passage = list(passages[int(random.integers(len(passages)))].ljust(32))
            for _ in range(int(random.integers(0, 3))):
                passage[int(random.integers(len(passage)))] = "z"
            text += "".join(passage)[:32]
        documents.append((str(number), text))
    store = Datastore.build(documents, tmp_path / "s", chunk_size=32, block_bytes=600)
    config = NeighbourConfig(k=4, sample_chunks=sample_chunks, near_duplicates=threshold, candidates=2)
    table = store.build_neighbours(config)
    found = table.ids(np.arange(len(table)))
    np.testing.assert_array_equal(found, naive_near_table(store, 4, sample_chunks, threshold))
    exact = store.build_neighbours(NeighbourConfig(k=4, sample_chunks=sample_chunks))
    assert (found != exact.ids(np.arange(len(table)))).any(), "some exact neighbours are near duplicates"


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("bands_of", [chunk_bands, document_bands])
def test_similar_pairs_are_missed_no_more_often_than_stated(threshold, bands_of):
    bands = bands_of(threshold)
    assert bands.count >= 1
    # Sets of 100 runs that share as many as the threshold says.
    pairs, size = 3000, 100
    shared = int(np.ceil(2 * size * threshold / (1 + threshold)))
    random = np.random.default_rng(0)
    common = random.integers(0, 2**64 - 1, (pairs, shared), dtype=np.uint64)
    owns = random.integers(0, 2**64 - 1, (2, pairs, size - shared), dtype=np.uint64)
    left, right = (minhash(np.concatenate([common, own], axis=1), bands.values) for own in owns)
    found = (bands.hashes(left) == bands.hashes(right)).any(axis=1) & bands.may_be_near(left, right)
    # A Poisson count of mean 3 is above 12 once in a hundred thousand times.
    assert (~found).sum() <= 12 * (pairs * MISSED / 3)


def test_a_table_over_one_long_document_stays_small(tmp_path):
    import tracemalloc

    long = " ".join(np.random.default_rng(0).choice(WORDS, size=3_000).tolist())
    for name, more in (("empty", []), ("filled", [("other", long[:640][::-1])])):
        store = Datastore.build([("long", long), *more], tmp_path / name, chunk_size=16)
        tracemalloc.start()
        table = store.build_neighbours(NeighbourConfig(k=1, max_candidates=512))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert table.missing <= len(table)
        # All candidates of all chunks at once are 750 times 512 numbers of 8 bytes, several times.
        assert peak < 24 << 20
