"""Masks, caches and ids that meet are all honoured, or the call is refused."""

from pathlib import Path

import pytest
import torch

from laws.families import case_name, cases, random_tokens, small_model
from retentive.checkpoints import load_state, save_state
from retentive.generation import generate
from retentive.huggingface import RetentiveForCausalLM, StateCache
from retentive.huggingface.cache import CACHE_NAME

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
EVERY_FAMILY = pytest.mark.parametrize("family", ["transformer", "retnet", "retro", "rmt"])
GREEDY = {"do_sample": False, "pad_token_id": 0}


def mask_with_holes(batch: int, time: int) -> torch.Tensor:
    mask = torch.ones(batch, time, dtype=torch.long)
    mask[0, :2] = 0
    mask[1, 3] = 0
    mask[0, time - 2] = 0
    return mask


@EVERY_CASE
def test_a_mask_of_all_columns_gives_what_one_call_gives(family: str, changes: dict):
    theirs = RetentiveForCausalLM.of(small_model(family, **changes))
    tokens, mask = random_tokens(2, 9), mask_with_holes(2, 9)
    whole = theirs(tokens, attention_mask=mask).logits
    cache, found = StateCache(), []
    for begin, end in ((0, 5), (5, 6), (6, 9)):
        found.append(theirs(tokens[:, begin:end], attention_mask=mask[:, :end], cache=cache).logits)
    real = mask.bool()
    torch.testing.assert_close(torch.cat(found, 1)[real], whole[real], rtol=0, atol=1e-9)


@pytest.mark.parametrize("first", [None, mask_with_holes(2, 6)], ids=["all real", "padded"])
def test_a_mask_that_says_something_else_of_read_columns_is_refused(first: torch.Tensor | None):
    theirs = RetentiveForCausalLM.of(small_model("retnet"))
    tokens = random_tokens(2, 9)
    cache = theirs(tokens[:, :6], attention_mask=first, use_cache=True)[CACHE_NAME]
    before = torch.ones(2, 6, dtype=torch.long) if first is None else first
    for row in range(2):
        for column in range(6):
            other = torch.cat((before, torch.ones(2, 3, dtype=torch.long)), 1)
            other[row, column] = 1 - other[row, column]
            with pytest.raises(ValueError, match=rf"attention_mask must say of columns.*column {column} of row {row}"):
                theirs(tokens[:, 6:], attention_mask=other, cache=StateCache.of(cache))
    with pytest.raises(
        ValueError, match=r"or \(2, 9\) with the columns that the cache has read, but has shape \(2, 8\)"
    ):
        theirs(tokens[:, 6:], attention_mask=torch.ones(2, 8), cache=cache)


@EVERY_FAMILY
def test_rows_of_a_cache_take_their_masks_along(family: str):
    theirs = RetentiveForCausalLM.of(small_model(family))
    tokens, mask = random_tokens(2, 8), mask_with_holes(2, 8)
    cache = theirs(tokens, attention_mask=mask, use_cache=True)[CACHE_NAME]
    kept = StateCache.of(cache)
    cache.layer.batch_repeat_interleave(2)
    rows = torch.tensor([0, 0, 1, 1])
    new = torch.cat((mask[rows], torch.ones(4, 1, dtype=torch.long)), 1)
    repeated = theirs(tokens[rows, :1], attention_mask=new, cache=cache).logits
    kept.layer.reorder_cache(torch.tensor([1, 0]))
    swapped = theirs(tokens[[1, 0], :1], attention_mask=new[[2, 0]], cache=kept).logits
    torch.testing.assert_close(repeated[[2, 0]], swapped, rtol=0, atol=1e-12)


@EVERY_FAMILY
def test_a_cache_that_has_read_all_ids_or_more_is_refused(family: str):
    theirs = RetentiveForCausalLM.of(small_model(family))
    tokens = random_tokens(2, 7)
    read = theirs(tokens, use_cache=True)[CACHE_NAME]
    for length in (1, 6, 7):
        ids = tokens[:, :length]
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 2, **GREEDY}
        with pytest.raises(ValueError, match=f"after the 7 columns that the cache has read, but hold {length} in all"):
            theirs.generate(ids, **options, **{CACHE_NAME: StateCache.of(read)})


@EVERY_FAMILY
@pytest.mark.parametrize("length", [1, 4, 12])
def test_ids_after_a_saved_state_are_all_new(family: str, length: int, tmp_path: Path):
    ours = small_model(family, dtype=torch.float32)
    theirs = RetentiveForCausalLM.of(ours)
    tokens = random_tokens(1, 9 + length)
    save_state(ours(tokens[:, :9]).state, tmp_path / "state", ours)
    new = tokens[:, 9:]
    options = {"attention_mask": torch.ones_like(new), "max_new_tokens": 6, **GREEDY}
    cache = StateCache(load_state(tmp_path / "state", ours))
    found = theirs.generate(new, **options, **{CACHE_NAME: cache})
    expected = generate(ours, new, max_new_tokens=6, state=load_state(tmp_path / "state", ours))
    assert torch.equal(found[:, length:], torch.stack(expected.tokens))
    options["attention_mask"] = torch.ones_like(tokens)
    whole = StateCache(load_state(tmp_path / "state", ours), seen=9)
    assert torch.equal(theirs.generate(tokens, **options, **{CACHE_NAME: whole})[:, 9:], found)


def test_a_cache_cannot_have_seen_what_it_has_no_state_of():
    with pytest.raises(ValueError, match="seen must be 0 for a cache without a state, but is 3"):
        StateCache(seen=3)
    state = small_model("retnet")(random_tokens(1, 4)).state
    with pytest.raises(ValueError, match="seen must be at least 0, but is -1"):
        StateCache(state, seen=-1)


def left_padded(lengths: tuple[int, ...], time: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows that end together, their mask, and labels of one's own: every token's id, -100 at padding."""
    tokens, mask = random_tokens(len(lengths), time), torch.zeros(len(lengths), time, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, time - length :] = 1
    return tokens, mask, tokens.masked_fill(mask == 0, -100)


@EVERY_FAMILY
@pytest.mark.parametrize("lengths", [(3, 6, 8), (9, 9, 9), (2, 9, 5)])
def test_the_loss_of_a_batch_is_the_mean_however_its_labels_are_counted(family: str, lengths: tuple[int, ...]):
    theirs = RetentiveForCausalLM.of(small_model(family))
    tokens, mask, labels = left_padded(lengths, 9)
    losses = [
        theirs(tokens[row : row + 1, 9 - length :], labels=tokens[row : row + 1, 9 - length :]).loss * (length - 1)
        for row, length in enumerate(lengths)
    ]
    expected = torch.stack(losses).sum() / sum(length - 1 for length in lengths)
    count = (labels[:, 1:] != -100).sum()  # as `Trainer` counts
    for options in ({}, {"num_items_in_batch": count}):
        found = theirs(tokens, attention_mask=mask, labels=labels, **options).loss
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_pad_token_without_a_row_in_the_table_is_padding():
    ours = small_model("retnet")
    theirs = RetentiveForCausalLM.of(ours)
    theirs.config.pad_token_id = 23
    tokens, mask = random_tokens(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    filled = tokens.masked_fill(mask == 0, 23)
    expected = ours(tokens, mask=mask.bool()).logits
    for options in ({"attention_mask": mask}, {}):
        torch.testing.assert_close(theirs(filled, **options).logits[mask.bool()], expected[mask.bool()])
    options = {"eos_token_id": 1, "pad_token_id": 23, "max_new_tokens": 9, "do_sample": False}
    found = theirs.generate(filled, attention_mask=mask, **options)[:, 7:]
    for row, new in zip(
        found, generate(ours, [tokens[0, 3:], tokens[1]], max_new_tokens=9, stop_tokens=[1]).tokens, strict=True
    ):
        assert torch.equal(row[: len(new)], new)
        assert (row[len(new) :] == 23).all()


def test_a_mask_that_is_added_to_scores_is_refused():
    theirs = RetentiveForCausalLM.of(small_model("retnet"))
    with pytest.raises(ValueError, match="attention_mask must be 1 at real columns and 0 at padding, but has numbers"):
        theirs(random_tokens(1, 3), attention_mask=torch.tensor([[-torch.inf, 0.0, 0.0]]))
