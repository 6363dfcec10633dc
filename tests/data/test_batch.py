"""Batches cut into parts."""

import pytest
import torch

from laws.families import random_tokens
from retentive.data.batch import Batch, check_batch, columns_of_part


@pytest.mark.parametrize(("time", "parts"), [(8, 1), (7, 2), (5, 3), (3, 3)])
def test_parts_are_all_columns_in_order_and_as_equal_as_can_be(time: int, parts: int):
    batch = Batch(
        tokens=random_tokens(2, time), labels=random_tokens(2, time, seed=1), starts=random_tokens(2, time, seed=2) > 11
    )
    cut = [columns_of_part(batch, part, parts) for part in range(parts)]
    for name in ("tokens", "labels", "starts"):
        assert torch.equal(torch.cat([getattr(part, name) for part in cut], 1), getattr(batch, name))
    lengths = [part.tokens.shape[1] for part in cut]
    assert max(lengths) - min(lengths) <= 1


def test_what_is_read_beside_tokens_cannot_be_cut():
    tokens = random_tokens(2, 8)
    batch = Batch(tokens=tokens, labels=tokens, starts=tokens > 11, extra_inputs={"neighbours": tokens})
    with pytest.raises(ValueError, match="must hold tokens alone to be read in parts, but has neighbours; share rows"):
        columns_of_part(batch, 0, 2)


def test_a_batch_that_no_memory_holds_is_refused_before_it_is_drawn():
    check_batch(window=16, batch_size=4)
    for window, batch_size in ((16, 10**14), (10**14, 16)):
        with pytest.raises(ValueError, match=r"batch_size times window must be .* fit into memory .*but is"):
            check_batch(window, batch_size)
