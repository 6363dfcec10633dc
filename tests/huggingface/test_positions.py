"""Positions that are given are those of the model, begin a document, or are refused."""

import pytest
import torch

from laws.families import case_name, cases, random_tokens, small_model
from retentive.huggingface import RetentiveForCausalLM, StateCache
from retentive.huggingface.cache import CACHE_NAME

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
EVERY_FAMILY = pytest.mark.parametrize("family", ["transformer", "retnet", "retro", "rmt"])


@EVERY_CASE
def test_positions_that_begin_again_begin_a_document(family: str, changes: dict):
    theirs = RetentiveForCausalLM.of(small_model(family, **changes))
    tokens = random_tokens(2, 12)
    lengths = ((3, 9), (7, 4, 1))
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])
    found = theirs(tokens, position_ids=positions).logits
    for row, pieces in enumerate(lengths):
        alone = [theirs(piece[None]).logits[0] for piece in tokens[row].split(pieces)]
        torch.testing.assert_close(found[row], torch.cat(alone), rtol=0, atol=1e-9)
    cache, parts = StateCache(), []
    for begin, end in ((0, 5), (5, 6), (6, 12)):
        options = {"position_ids": positions[:, begin:end], "cache": cache}
        parts.append(theirs(tokens[:, begin:end], **options).logits)
    torch.testing.assert_close(torch.cat(parts, 1), found, rtol=0, atol=1e-9)


@EVERY_FAMILY
def test_positions_that_go_on_change_nothing(family: str):
    theirs = RetentiveForCausalLM.of(small_model(family))
    tokens, mask = random_tokens(2, 8), torch.ones(2, 8, dtype=torch.long)
    mask[0, :3] = 0
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    expected = theirs(tokens, attention_mask=mask).logits[mask.bool()]
    assert torch.equal(theirs(tokens, attention_mask=mask, position_ids=positions).logits[mask.bool()], expected)
    one_row = torch.arange(8)[None]
    assert torch.equal(theirs(tokens, position_ids=one_row).logits, theirs(tokens).logits)
    cache = theirs(tokens[:, :5], attention_mask=mask[:, :5], use_cache=True)[CACHE_NAME]
    state = cache.state
    options = {"attention_mask": mask[:, 5:], "position_ids": positions[:, 5:]}
    wanted = theirs(tokens[:, 5:], attention_mask=mask[:, 5:], cache=StateCache.of(cache)).logits
    assert torch.equal(theirs(tokens[:, 5:], **options, cache=cache).logits, wanted)
    # Of a cache that was made from a state, they count from the state or from the first column that it is given.
    for given in (positions[:, 5:], torch.arange(3)[None]):
        assert torch.equal(theirs(tokens[:, 5:], position_ids=given, cache=StateCache(state)).logits, wanted)


def test_other_positions_are_refused():
    theirs = RetentiveForCausalLM.of(small_model("retnet"))
    tokens = random_tokens(2, 6)
    for wrong in ([1, 2, 3, 4, 5, 6], [0, 1, 2, 2, 3, 4], [0, 1, 3, 4, 5, 6], [5, 4, 3, 2, 1, 0]):
        with pytest.raises(ValueError, match="position_ids must count the real columns of each row"):
            theirs(tokens, position_ids=torch.tensor([wrong]))
    with pytest.raises(ValueError, match=r"position_ids must be \(batch, time\), \(2, 6\), but have shape \(1, 5\)"):
        theirs(tokens, position_ids=torch.arange(5)[None])
    cache = StateCache(theirs(tokens, use_cache=True)[CACHE_NAME].state)
    with pytest.raises(ValueError, match=r"position_ids must go on from the state of a cache that was made from one"):
        theirs(tokens, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]), cache=cache)


def test_a_retriever_and_documents_in_one_row_are_refused():
    theirs = RetentiveForCausalLM.of(small_model("retro"))
    theirs.retriever = lambda chunks: None
    with pytest.raises(ValueError, match="position_ids must begin no document where a retriever looks for neighbours"):
        theirs(random_tokens(1, 4), position_ids=torch.tensor([[0, 1, 0, 1]]))
