"""Late interaction by the definition, token by token."""

import numpy as np
import pytest

from retentive.retrieval import DenseEncoder
from retentive.retrieval.rerankers import LateInteraction, Reranker
from retrieval.small_models import make_model
from retrieval.texts import make_documents

QUERY = "baa bab loc"
PASSAGES = [text or "tia" for _, text in make_documents(6, words=12)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return DenseEncoder(make_model(tmp_path_factory.mktemp("models") / "bert"), batch_size=4)


def test_each_token_of_the_query_counts_by_its_nearest_one(encoder):
    reader = LateInteraction(encoder)
    assert isinstance(reader, Reranker)
    found = reader.scores(QUERY, PASSAGES)
    for passage, score in zip(PASSAGES, found.tolist(), strict=True):
        (asked,), (read,) = encoder.token_vectors([QUERY], special_tokens=False), encoder.token_vectors([passage])
        assert len(asked) == len(encoder.tokenizer.encode(QUERY))
        nearest = [max(float(a @ b) for b in read) for a in asked]
        assert score == pytest.approx(sum(nearest) / len(nearest), abs=1e-5)
    assert reader.scores(QUERY, [QUERY]).tolist() == pytest.approx([1.0], abs=1e-5)
    assert reader.scores(QUERY, []).shape == (0,)
    assert reader.scores("", PASSAGES).tolist() == [0.0] * len(PASSAGES)


def test_vectors_of_tokens_do_not_depend_on_the_other_texts_and_a_long_text_is_read_in_pieces(encoder):
    together = encoder.token_vectors(PASSAGES)
    for passage, found in zip(PASSAGES, together, strict=True):
        np.testing.assert_allclose(encoder.token_vectors([passage])[0], found, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    long = " ".join(PASSAGES * 4)
    tokens = len(encoder.tokenizer.encode(long))
    pieces = -(-tokens // 78)  # the model reads 80, of which two are special
    assert pieces > 2
    assert encoder.token_vectors([long])[0].shape == (tokens + 2 * pieces, 32)
