"""Answers that are judged again: the order is the reranker's, and nothing else changes."""

import numpy as np
import pytest

from retentive.retrieval import Datastore
from retentive.retrieval.search import reranking
from retentive.retrieval.search.evaluation import rank_documents
from retrieval.texts import HashedWords, make_documents


class CountsLetters:
    """Judges by how many of a passage's letters the query has; it notes what it was asked to read."""

    def __init__(self):
        self.read = []

    def scores(self, query, passages):
        self.read += passages
        return np.array([sum(text.count(letter) for letter in query) for text in passages], dtype=np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Datastore.build(make_documents(20), tmp_path_factory.mktemp("stores") / "s", chunk_size=48)


def test_the_first_answers_are_ordered_by_the_reranker_and_the_others_follow(store, monkeypatch):
    monkeypatch.setattr(reranking, "DEPTH", 8)
    judge, query = CountsLetters(), "bab rac tid"
    plain = store.search(query, k=30)
    found = store.search(query, k=30, rerank=judge)
    documents = store.corpus.documents(plain.ids)[0, :8].tolist()
    assert len(judge.read) == 8 + len(set(documents))  # each opening once
    assert sorted(found.ids[0, :8]) == sorted(plain.ids[0, :8])
    np.testing.assert_array_equal(found.ids[0, 8:], plain.ids[0, 8:])
    passages = judge.scores(query, [reranking.passage_of(store.corpus, int(chunk)) for chunk in plain.ids[0, :8]])
    openings = judge.scores(query, [store.corpus.text(document)[: reranking.OPENING] for document in documents])
    judged = (passages + reranking.OPENING_WEIGHT * openings) / np.float32(1 + reranking.OPENING_WEIGHT)
    order = np.argsort(-judged, kind="stable")
    np.testing.assert_array_equal(found.ids[0, :8], plain.ids[0, order])
    np.testing.assert_allclose(found.scores[0, :8], judged[order], rtol=1e-6)
    assert (np.diff(found.scores[0][found.ids[0] >= 0]) <= 0).all()
    # Each query of several is judged by its own text.
    both = store.search([query, "loc"], k=30, rerank=CountsLetters())
    np.testing.assert_array_equal(both.ids[0], found.ids[0])
    np.testing.assert_array_equal(both.ids[1], store.search("loc", k=30, rerank=CountsLetters()).ids[0])
    tokens = store.search(store.tokenizer.encode(query), k=30, rerank=CountsLetters())
    np.testing.assert_array_equal(tokens.ids, found.ids)


def test_what_may_be_no_answer_is_not_read(store):
    judge = CountsLetters()
    answers = store.answers("bab rac tid", k=5, where="path=folder/1*", exclude_documents="folder/11.txt", rerank=judge)
    assert answers
    allowed = [text for name, text in make_documents(20) if name.startswith("folder/1") and name != "folder/11.txt"]
    assert all(any(passage.rpartition("\n")[2] in text for text in allowed) for passage in judge.read)
    best = rank_documents(store, "bab rac tid", 3, rerank=CountsLetters())
    first = store.answers("bab rac tid", k=1, rerank=CountsLetters())[0]
    assert next(iter(best)) == first.document


def test_a_passage_is_a_chunk_after_the_beginning_of_its_document(store):
    corpus = store.corpus
    for chunk in range(corpus.num_chunks):
        begin, end = (int(place[0]) for place in corpus.spans(np.array([chunk])))
        text = corpus.text(int(corpus.documents(np.array([chunk]))[0]))  # one byte a character
        before = text[: min(begin, reranking.BEGINNING)]
        assert reranking.passage_of(corpus, chunk) == (f"{before}\n" if before else "") + text[begin:end]


def test_a_store_whose_encoder_does_not_read_tokens_says_what_can_be_done(store, tmp_path):
    hashed = Datastore.build(make_documents(3), tmp_path / "s", encoder=HashedWords())
    for one in (store, hashed):
        with pytest.raises(ValueError, match=r"rerank=True reads with the encoder .* \(--reranker FOLDER\)"):
            one.search("bab", rerank=True)
