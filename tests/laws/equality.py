"""When two states are one."""

import torch

from retentive.state import named_tensors


def assert_equal_states(found, expected) -> None:
    assert type(found) is type(expected)
    ours, theirs = named_tensors(found), named_tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name].view(-1), tensor.reshape(-1)), name
        assert ours[name].shape == tensor.shape, name


def assert_close_states(found, expected, atol: float) -> None:
    ours = named_tensors(found)
    for name, tensor in named_tensors(expected).items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=atol, msg=name)
