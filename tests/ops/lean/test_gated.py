"""The gate is the product that it says, values and gradients."""

import pytest
import torch
from torch.nn.functional import gelu, relu, silu

from retentive.ops.lean.gated import Activation, gated

ACTIVATIONS = {"swish": silu, "relu": relu, "gelu": gelu, "gelu_tanh": lambda x: gelu(x, approximate="tanh")}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_equals_the_formula(activation: Activation, strided: bool, dtype: torch.dtype):
    inner = (torch.randn(10, 2, 3, dtype=dtype).permute(1, 2, 0) if strided else torch.randn(2, 3, 10, dtype=dtype)) * 3
    inner.requires_grad_()
    first, second = inner.chunk(2, -1)
    expected = ACTIVATIONS[activation](first) * second
    found = gated(inner, activation)
    assert torch.equal(found, expected)
    slope = torch.randn(3, 2, 5, dtype=dtype).transpose(0, 1)
    (ours,), (theirs,) = (torch.autograd.grad(output, inner, slope) for output in (found, expected))
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        assert torch.equal(gated(inner, activation), expected)
