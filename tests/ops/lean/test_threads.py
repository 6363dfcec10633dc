"""Small passes take one thread, and all threads are there afterwards."""

from collections.abc import Iterator

import pytest
import torch

from retentive.ops.lean.threads import threads_for


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (320 * 256, 1), (1 << 20, 3)])
def test_by_size(size: int, threads: int):
    with threads_for(torch.zeros(size)):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 3


def test_after_an_error_and_inside_of_another():
    with pytest.raises(RuntimeError, match="size"), threads_for(torch.zeros(2)), threads_for(torch.zeros(2)):
        torch.zeros(2) + torch.zeros(3)
    assert torch.get_num_threads() == 3


def test_on_another_device_nothing_changes():
    with threads_for(torch.zeros(2, device="meta")):
        assert torch.get_num_threads() == 3
