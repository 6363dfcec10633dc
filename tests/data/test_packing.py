from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retentive.data.packing import PackedWindows
from retentive.data.shuffling import shuffled

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)
END = 999  # of the stores below, all other tokens are different


def expected_positions(lengths):
    """Every (token, label, start) of the stream, by a plain loop: one document after the other."""
    positions, first = [], 0
    for size in lengths:
        labels = [*range(first, first + size), END]
        ids = [END, *labels[:-1]]
        positions += [(token, label, i == 0) for i, (token, label) in enumerate(zip(ids, labels, strict=True))]
        first += size
    return positions


def positions_of(batch):
    rows = zip(batch.tokens.tolist(), batch.labels.tolist(), batch.starts.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in rows]


@given(lengths=LENGTHS, window=st.integers(1, 15), seed=st.integers(0, 3))
def test_every_token_is_read_and_predicted_once_an_epoch(store_of, lengths, window, seed):
    windows = PackedWindows(store_of(lengths), "train", window, batch_size=1, seed=seed)
    stream = expected_positions(lengths)
    padding = (END, -100, True)
    stream += [padding] * (-len(stream) % window)
    for epoch in range(2):
        steps = range(epoch * windows.windows_per_epoch, (epoch + 1) * windows.windows_per_epoch)
        found = {int(windows.window_numbers(step)[0]): positions_of(windows.batch(step))[0] for step in steps}
        assert [position for number in sorted(found) for position in found[number]] == stream


@given(lengths=LENGTHS, window=st.integers(1, 15), per_rank=st.integers(1, 3), world=st.integers(1, 4), data=st.data())
def test_any_number_of_ranks_reads_the_same_batch(store_of, lengths, window, per_rank, world, data):
    store, batch_size = store_of(lengths), per_rank * world
    step = data.draw(st.integers(0, 20))
    whole = PackedWindows(store, "train", window, batch_size, seed=1).batch(step)
    # Each rank is a process of its own, which has read other steps or none before.
    shares = [
        PackedWindows(store, "train", window, batch_size, seed=1).batch(step, rank, world) for rank in range(world)
    ]
    for name in ("tokens", "labels", "starts"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))


@given(lengths=LENGTHS, window=st.integers(1, 15), batch_size=st.integers(1, 7))
def test_batches_go_on_into_the_next_epoch(store_of, lengths, window, batch_size):
    windows = PackedWindows(store_of(lengths), "train", window, batch_size, seed=0)
    steps = windows.windows_per_epoch  # so many batches are exactly batch_size epochs
    numbers = np.concatenate([windows.window_numbers(step) for step in range(steps)])
    for epoch in np.split(numbers, batch_size):
        assert sorted(epoch) == list(range(windows.windows_per_epoch))
    assert windows.steps_per_epoch == windows.windows_per_epoch / batch_size


def test_the_order_depends_on_seed_and_epoch(store_of):
    store = store_of([300])
    orders = [
        tuple(PackedWindows(store, "train", 10, 31, seed=seed).window_numbers(epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(31)) for order in orders)


def test_steps_can_be_read_in_any_order(store_of):
    windows = PackedWindows(store_of([5, 9, 30]), "train", 4, 3, seed=0)
    forwards = [windows.batch(step).tokens for step in range(12)]
    backwards = [windows.batch(step).tokens for step in reversed(range(12))]
    assert all(torch.equal(one, other) for one, other in zip(forwards, reversed(backwards), strict=True))


def test_tensors_are_what_models_take(store_of):
    batch = PackedWindows(store_of([5, 9]), "train", 4, 2, seed=0).batch(0).to("cpu")
    assert (batch.tokens.dtype, batch.labels.dtype, batch.starts.dtype) == (torch.int64, torch.int64, torch.bool)
    assert batch.tokens.shape == batch.labels.shape == batch.starts.shape == (2, 4)


def test_the_held_out_split_is_apart(store_of):
    store = store_of([5, 5], heldout=[3])
    batch = PackedWindows(store, "heldout", 10, 1, seed=0).batch(0)
    assert batch.tokens.tolist() == [[END, 10, 11, 12] + [END] * 6]
    assert batch.labels.tolist() == [[10, 11, 12, END] + [-100] * 6]
    assert batch.starts.tolist() == [[True, False, False, False] + [True] * 6]


def test_shuffling_never_changes():
    # A run that is resumed after an upgrade must find its windows where they were.
    assert shuffled(8, 1, 2).tolist() == [4, 6, 7, 3, 5, 0, 2, 1]
    assert Counter(shuffled(1000, 5).tolist()) == Counter(range(1000))


def test_impossible_arguments_are_refused(store_of):
    store = store_of([5])
    with pytest.raises(ValueError, match="window must be at least 1, but is 0"):
        PackedWindows(store, "train", 0, 1, seed=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, but is 0"):
        PackedWindows(store, "train", 4, 0, seed=0)
    with pytest.raises(ValueError, match="seed must be at least 0, but is -1"):
        PackedWindows(store, "train", 4, 1, seed=-1)
    with pytest.raises(ValueError, match=r"split 'heldout' of .* has no document: prepare the text"):
        PackedWindows(store, "heldout", 4, 1, seed=0)
    windows = PackedWindows(store, "train", 4, 6, seed=0)
    with pytest.raises(ValueError, match="step must be at least 0, but is -1"):
        windows.batch(-1)
    with pytest.raises(ValueError, match="multiple of the number of ranks, but is 6 for 4 ranks"):
        windows.batch(0, 0, 4)
    with pytest.raises(ValueError, match="rank must be from 0 to 1, but is 2"):
        windows.batch(0, 2, 2)
