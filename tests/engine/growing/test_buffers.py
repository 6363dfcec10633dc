"""A tensor that grows in place is the concatenation."""

import pytest
import torch

from retentive.engine.growing.buffers import GrowingBuffer


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("longest", [None, 0, 1, 70])
def test_entries_come_behind_what_is_there(dim: int, longest: int | None):
    buffer, shape = GrowingBuffer(dim, longest), [2, 3, 4]
    shape[dim] = 2 if longest is None else min(2, longest)
    past = expected = torch.randn(shape)
    returned: list[tuple[torch.Tensor, torch.Tensor]] = []
    for _ in range(200):
        entry = torch.randn([size for index, size in enumerate(shape) if index != dim])
        expected = torch.cat((expected, entry.unsqueeze(dim)), dim)
        whole, past = buffer.after(past, entry)
        returned.append((whole, expected))
        if longest is not None:
            expected = expected.narrow(dim, max(0, expected.shape[dim] - longest), min(longest, expected.shape[dim]))
        returned.append((past, expected))
    for found, should in returned:  # after all steps: none has changed what was returned before
        assert torch.equal(found, should)


def test_most_steps_copy_nothing():
    buffer, past, copies = GrowingBuffer(1), torch.zeros(1, 0, 8), 0
    memory = None
    for _ in range(5000):
        _, past = buffer.after(past, torch.zeros(1, 8))
        if past.untyped_storage().data_ptr() != memory:
            memory, copies = past.untyped_storage().data_ptr(), copies + 1
    assert copies < 20


def test_another_past_is_gone_on_from_in_new_memory():
    buffer = GrowingBuffer(1)
    first = buffer.after(torch.zeros(1, 2), torch.ones(1))[1]
    second = buffer.after(first, torch.full((1,), 2.0))[1]
    other = buffer.after(first, torch.full((1,), 3.0))[1]
    assert [tensor.tolist() for tensor in (first, second, other)] == [[[0, 0, 1]], [[0, 0, 1, 2]], [[0, 0, 1, 3]]]


def test_a_wider_entry_widens_all():
    assert GrowingBuffer(1).after(torch.zeros(1, 2, dtype=torch.bfloat16), torch.ones(1))[1].dtype is torch.float32
