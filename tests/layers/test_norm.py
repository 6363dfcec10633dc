"""An engine's view of a norm gives what the norm gives, in every dtype."""

import pytest
import torch

from retentive.engine.lookup import ModelView
from retentive.layers.norm import Norm, NormConfig


@pytest.mark.parametrize("of_weight", [None, torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e18])
@pytest.mark.parametrize("kind", ["rms_norm", "gated_rms_norm"])
def test_a_view_gives_the_same(of_weight: torch.dtype | None, dtype: torch.dtype, size: float, kind: str):
    if of_weight is None and kind == "gated_rms_norm":
        of_weight = torch.float32
    norm = Norm(6, NormConfig(kind=kind, affine=of_weight is not None)).to(of_weight or torch.float32)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(6))
    x = (size * torch.randn(3, 2, 6)).to(dtype)
    with torch.no_grad():
        found, expected = ModelView(norm).model(x), norm(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)
