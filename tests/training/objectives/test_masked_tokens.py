"""Masked tokens: what is hidden, what is asked, and that an encoder learns it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from laws.families import VOCAB, small_model
from retentive.data.batch import Batch
from retentive.training.objectives.draws import RowDraws
from retentive.training.objectives.masked_tokens import MaskedTokensConfig
from retentive.training.objectives.protocol import Vocabulary
from retentive.training.run.fit import fit
from retentive.training.step.config import OptimizerConfig

MASK = VOCAB - 1
CPU = torch.device("cpu")


def batch_of(seed: int, rows: int = 4, time: int = 50) -> Batch:
    """Rows of text that begin with a document, with padding at the end of the last."""
    tokens = torch.randint(0, MASK, (rows, time + 1), generator=torch.Generator().manual_seed(seed))
    labels = tokens[:, 1:].clone()
    labels[-1, time // 2 :] = -100
    starts = torch.zeros(rows, time, dtype=torch.bool)
    starts[:, 0] = starts[0, 7] = True
    return Batch(tokens=tokens[:, :-1], labels=labels, starts=starts)


def prepared(batch: Batch, first_row: int = 0, **options: Any) -> Batch:
    objective = MaskedTokensConfig(**{"mask_token": MASK, **options}).build(Vocabulary(size=VOCAB), CPU)
    return objective.prepare(batch, RowDraws(key=(1, 2), first_row=first_row))


def test_what_is_asked_is_the_hidden_token_itself():
    batch = batch_of(0, rows=40)
    found = prepared(batch)
    asked = found.labels != -100
    assert torch.equal(found.labels[asked], batch.tokens[asked])
    assert torch.equal(found.tokens[~asked], batch.tokens[~asked])
    assert not asked[batch.starts].any()  # the end-of-text before a document is no token of it
    assert not asked[batch.labels == -100].any()
    share = asked.sum() / ((batch.labels != -100) & ~batch.starts).sum()
    assert 0.12 < float(share) < 0.18
    masked, same = found.tokens[asked] == MASK, found.tokens[asked] == batch.tokens[asked]
    assert 0.72 < masked.double().mean() < 0.88
    assert 0.05 < same.double().mean() < 0.2
    assert 0.03 < (~masked & ~same).double().mean() < 0.2


def test_shares_of_the_ways_are_honoured():
    batch = batch_of(0)
    everything = prepared(batch, share=1.0, masked=1.0, random=0.0)
    can_be = (batch.labels != -100) & ~batch.starts
    assert torch.equal(everything.labels != -100, can_be)
    assert (everything.tokens[can_be] == MASK).all()
    kept = prepared(batch, share=1.0, masked=0.0, random=0.0)
    assert torch.equal(kept.tokens, batch.tokens)
    drawn = prepared(batch, share=1.0, masked=0.0, random=1.0).tokens[can_be]
    assert len(drawn.unique()) == VOCAB


def test_a_share_of_the_rows_is_hidden_as_in_the_whole():
    batch, whole = batch_of(0), prepared(batch_of(0))
    for row in range(4):
        rows = slice(row, row + 1)
        share = Batch(tokens=batch.tokens[rows], labels=batch.labels[rows], starts=batch.starts[rows])
        found = prepared(share, first_row=row)
        assert torch.equal(found.tokens, whole.tokens[rows])
        assert torch.equal(found.labels, whole.labels[rows])


def test_an_encoder_learns_to_tell_hidden_tokens():
    """All tokens of a row are one: what is hidden stands around it, on both sides."""

    def task(step: int) -> Batch:
        each = torch.randint(0, MASK, (16, 1), generator=torch.Generator().manual_seed(step))
        text = each.expand(16, 20).contiguous()
        return Batch(tokens=text, labels=text, starts=torch.zeros_like(text, dtype=torch.bool))

    model = small_model("rmt", dtype=torch.float32, bidirectional=True, segment_length=10)
    options: dict[str, Any] = {"steps": 120, "optimizer": OptimizerConfig(learning_rate=1e-2)}
    results = fit(model, task, objective=MaskedTokensConfig(mask_token=MASK, share=0.3), **options)
    assert results[0].num_labels < 0.5 * 16 * 20
    assert sum(result.loss for result in results[-10:]) < 0.4 * sum(result.loss for result in results[:10])


def test_what_cannot_be_is_refused():
    def task(step: int) -> Batch:
        return batch_of(step)

    encoder = small_model("rmt", bidirectional=True)
    with pytest.raises(ValueError, match="objective must be 'next_token' for a model that reads from left to right"):
        fit(small_model("retnet"), task, steps=1, objective=MaskedTokensConfig(mask_token=MASK))
    with pytest.raises(ValueError, match="mask_token must be a token id where no tokenizer gives an end-of-text"):
        fit(encoder, task, steps=1, objective=MaskedTokensConfig())
    with pytest.raises(ValueError, match=f"mask_token must be below the vocabulary's {VOCAB} ids, but is {VOCAB}"):
        fit(encoder, task, steps=1, objective=MaskedTokensConfig(mask_token=VOCAB))
    config = MaskedTokensConfig()
    for changes, message in (
        ({"share": 0.0}, r"masked_tokens\.share must be above 0 and at most 1, but is 0\.0"),
        ({"masked": 1.5}, r"masked_tokens\.masked must be from 0 to 1, but is 1\.5"),
        ({"masked": 0.8, "random": 0.3}, r"must add up to at most 1, but are 0\.8 and 0\.3"),
        ({"mask_token": -1}, r"masked_tokens\.mask_token must be at least 0 tokens, but is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(config, **changes)
