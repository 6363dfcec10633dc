"""The device of tests of kernels, and what these need there."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from ops.direct_sum import Case
from retentive.ops.retention import chunkwise

DEVICE = torch.device(os.environ.get("RETENTIVE_TEST_DEVICE", "cpu"))
"""Where tests of kernels run: on a CPU by Triton's interpreter, which ``TRITON_INTERPRET=1`` turns on."""


@contextmanager
def kernels(monkeypatch: pytest.MonkeyPatch, wanted: bool = True) -> Iterator[None]:
    """Take the kernels, on a CPU too, or plain operations; all new memory is filled with NaN."""
    with monkeypatch.context() as patch:
        patch.setattr(chunkwise, "has_kernel", lambda *tensors: wanted)
        torch.use_deterministic_algorithms(True, warn_only=True)  # which fills memory that nobody has written to
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def amid_nan(tensor: Tensor) -> Tensor:
    """The same numbers on the device, with NaN before and behind in memory."""
    around = torch.full((tensor.numel() + 2048,), math.nan, dtype=tensor.dtype, device=DEVICE)
    inside = around[1024:-1024].view(tensor.shape)
    return inside.copy_(tensor)


def on_device(case: Case, dtype: torch.dtype) -> Case:
    """The case in another dtype, which its decays keep out of."""
    learned = {field: amid_nan(getattr(case, field).to(dtype)).requires_grad_() for field in case.learned()}
    if "log_decay" in learned:
        learned["log_decay"] = case.log_decay.to(DEVICE).requires_grad_()
    flags = {field: None if flag is None else flag.to(DEVICE) for field, flag in case.flags().items()}
    return case._replace(**{**flags, **learned})
