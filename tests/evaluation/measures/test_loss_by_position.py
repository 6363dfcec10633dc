"""Loss by position against the losses of single tokens."""

import numpy as np
import pytest

from laws.families import small_model
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.evaluation.measures.bits_per_byte import bits_per_byte_in_one_pass
from retentive.evaluation.measures.documents import select_documents
from retentive.evaluation.measures.loss_by_position import loss_by_position
from retentive.evaluation.measures.scoring import score_in_one_pass

VOCAB = 300
FAMILIES = ("transformer", "retnet")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bucket_is_the_mean_of_its_tokens(family: str, store: TokenStore):
    model, documents = small_model(family, vocab_size=VOCAB), select_documents(store)
    found = loss_by_position(model, documents, chunk_size=9)
    scores = list(score_in_one_pass(model, documents))
    position = np.concatenate([scored.position for scored in scores])
    nats = np.concatenate([scored.nats for scored in scores])
    document = np.concatenate([scored.document for scored in scores])
    assert [bucket.first for bucket in found.buckets] == [1 << i for i in range(len(found.buckets))]
    for bucket in found.buckets:
        assert bucket.last == 2 * bucket.first - 1
        inside = (position >= bucket.first) & (position <= bucket.last)
        assert (bucket.tokens, bucket.documents) == (inside.sum(), len(set(document[inside])))
        assert bucket.nats_per_token == pytest.approx(nats[inside].mean(), rel=1e-12)
    assert sum(bucket.tokens for bucket in found.buckets) == documents.num_scored
    assert found.coverage == documents.coverage


def test_all_buckets_together_are_the_loss_of_one_pass(byte_store: TokenStore):
    model, documents = small_model("retnet", vocab_size=VOCAB), select_documents(byte_store)
    buckets = loss_by_position(model, documents).buckets
    mean = sum(bucket.nats_per_token * bucket.tokens for bucket in buckets) / sum(bucket.tokens for bucket in buckets)
    assert mean == pytest.approx(bits_per_byte_in_one_pass(model, documents).nats_per_token, rel=1e-12)


def test_error_bars_need_two_documents(byte_store: TokenStore):
    buckets = loss_by_position(small_model("retnet", vocab_size=VOCAB), select_documents(byte_store)).buckets
    assert all((bucket.standard_error is not None) == (bucket.documents > 1) for bucket in buckets)
    assert {bucket.documents > 1 for bucket in buckets} >= {True}
    assert all(bucket.standard_error > 0 for bucket in buckets if bucket.standard_error is not None)


def test_a_model_without_the_stores_tokens_is_refused(bpe_store: TokenStore):
    with pytest.raises(MismatchError, match="prepared with the model's own tokenizer"):
        loss_by_position(small_model("retnet", vocab_size=256), select_documents(bpe_store))
