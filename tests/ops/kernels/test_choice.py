"""Where kernels are chosen."""

import torch

from retentive.ops.kernels.choice import has_kernel


def test_no_kernel_outside_of_gpus():
    assert not has_kernel(torch.zeros(1))
    assert not has_kernel(torch.zeros(1, device="meta"), None)
