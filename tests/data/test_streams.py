import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retentive.data.streams import StreamedWindows

END = 999
PADDING = (END, -100, True)
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def rows_of(windows, steps):
    """Each row's positions (token, label, start), joined from window to window."""
    batches = [windows.batch(step) for step in range(steps)]
    joined = [torch.cat([getattr(batch, name) for batch in batches], dim=1) for name in ("tokens", "labels", "starts")]
    return [list(zip(*(one.tolist() for one in row), strict=True)) for row in zip(*joined, strict=True)]


def documents_of(lengths):
    """Each document's positions, by its first token."""
    found, first = {}, 0
    for size in lengths:
        labels = [*range(first, first + size), END]
        ids = [END, *labels[:-1]]
        found[first] = [(token, label, i == 0) for i, (token, label) in enumerate(zip(ids, labels, strict=True))]
        first += size
    return found


def placed(rows, lengths):
    """Where each document begins, as (position, row, first token), after checking that rows hold them whole."""
    documents, found = documents_of(lengths), []
    for number, row in enumerate(rows):
        place = 0
        while place < len(row) and row[place] != PADDING:
            first = row[place][1]
            piece = row[place : place + len(documents[first])]
            assert piece == documents[first][: len(piece)]
            found.append((place, number, first))
            place += len(piece)
        assert row[place:] == [PADDING] * (len(row) - place)
    return sorted(found)


@given(lengths=LENGTHS, window=st.integers(1, 15), batch_size=st.integers(1, 5), seed=st.integers(0, 2))
def test_rows_read_whole_documents_from_one_queue_without_padding(store_of, lengths, window, batch_size, seed):
    windows = StreamedWindows(store_of(lengths), "train", window, batch_size, seed)
    rows = rows_of(windows, steps=3 + int(2 * windows.steps_per_epoch))
    assert all(PADDING not in row for row in rows)
    queue = [first for _, _, first in placed(rows, lengths)]
    # The row that is free first takes the next document, so the order of beginnings is the order of the queue, in
    # which every epoch holds every document once.
    for begin in range(0, len(queue) - len(lengths) + 1, len(lengths)):
        assert sorted(queue[begin : begin + len(lengths)]) == sorted(documents_of(lengths))


@given(
    lengths=LENGTHS,
    window=st.integers(1, 15),
    batch_size=st.integers(1, 5),
    epochs=st.integers(1, 2),
)
def test_a_given_number_of_epochs_reads_everything_so_often(store_of, lengths, window, batch_size, epochs):
    windows = StreamedWindows(store_of(lengths), "train", window, batch_size, 0, epochs=epochs)
    rows = rows_of(windows, windows.num_steps)
    assert sorted(first for _, _, first in placed(rows, lengths)) == sorted([*documents_of(lengths)] * epochs)
    assert any(row[-window] != PADDING for row in rows)  # the last step is needed
    with pytest.raises(ValueError, match=f"step must be at least 0 and below num_steps={windows.num_steps}, but is"):
        windows.batch(windows.num_steps)


@given(lengths=LENGTHS, world=st.sampled_from([1, 2, 3, 6]), step=st.integers(0, 9))
def test_any_number_of_ranks_reads_the_same_rows(store_of, lengths, world, step):
    store = store_of(lengths)
    whole = StreamedWindows(store, "train", 5, 6, seed=3)
    for earlier in range(step):
        whole.batch(earlier)
    # Each rank is a process that was started again at this step.
    shares = [StreamedWindows(store, "train", 5, 6, seed=3).batch(step, rank, world) for rank in range(world)]
    for name in ("tokens", "labels", "starts"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole.batch(step), name))


def test_the_order_depends_on_seed_and_epoch(store_of):
    store = store_of([3] * 30)
    orders = set()
    for seed in (0, 1):
        (row,) = rows_of(StreamedWindows(store, "train", 120, 1, seed), steps=2)
        orders |= {tuple(row[:120]), tuple(row[120:])}
    assert len(orders) == 4


def test_impossible_arguments_are_refused(store_of):
    store = store_of([5, 5])
    with pytest.raises(ValueError, match=r"split 'heldout' of .* has no document"):
        StreamedWindows(store, "heldout", 4, 1, seed=0)
    with pytest.raises(ValueError, match="window must be at least 1, but is 0"):
        StreamedWindows(store, "train", 0, 1, seed=0)
    with pytest.raises(ValueError, match="epochs must be at least 1, but is 0"):
        StreamedWindows(store, "train", 4, 1, seed=0, epochs=0)
    with pytest.raises(ValueError, match="step must be at least 0, but is -1"):
        StreamedWindows(store, "train", 4, 1, seed=0).batch(-1)
    with pytest.raises(ValueError, match="num_steps needs a number of epochs"):
        _ = StreamedWindows(store, "train", 4, 1, seed=0).num_steps
    with pytest.raises(ValueError, match="seed must be at least 0, but is -2"):
        StreamedWindows(store, "train", 4, 1, seed=-2)
