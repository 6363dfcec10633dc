"""Half precision is computed where the hardware can, and remembered nowhere."""

import pytest
import torch

from retentive.ops import compute_dtype, state_dtype
from retentive.ops import precision as module


@pytest.mark.parametrize("native", [True, False])
def test_cpu_dtypes(native: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "cpu_multiplies_bfloat16", lambda: native)
    expected = {
        torch.float64: torch.float64,
        torch.float32: torch.float32,
        torch.float16: torch.float32,
        torch.bfloat16: torch.bfloat16 if native else torch.float32,
    }
    for dtype, computed in expected.items():
        assert compute_dtype(torch.empty(0, dtype=dtype)) == computed


def test_accelerators_keep_the_dtype():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert compute_dtype(torch.empty(0, dtype=dtype, device="meta")) == dtype


def test_states_are_float32_or_wider():
    assert state_dtype(torch.float16) == state_dtype(torch.bfloat16) == state_dtype(torch.float32) == torch.float32
    assert state_dtype(torch.float64) == torch.float64
