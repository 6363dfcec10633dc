"""RMS normalisation is its formula, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.ops.rms_norm import rms_norm


@given(rows=st.integers(1, 5), channels=st.integers(1, 9), weighted=st.booleans(), strided=st.booleans())
@settings(deadline=None, max_examples=30)
def test_equals_the_formula(rows: int, channels: int, weighted: bool, strided: bool):
    torch.manual_seed(rows * 10 + channels)
    x = torch.randn(2, channels, rows, dtype=torch.float64).mT if strided else torch.randn(2, rows, channels).double()
    x = x.detach().requires_grad_()
    weight = torch.randn(channels, dtype=torch.float64, requires_grad=True) if weighted else None
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()
    if weight is not None:
        expected = expected * weight
    normed = rms_norm(x, weight, 0.1)
    torch.testing.assert_close(normed, expected, rtol=0, atol=1e-13)
    slope = torch.randn_like(x)
    inputs = [tensor for tensor in (x, weight) if tensor is not None]
    for ours, theirs in zip(
        torch.autograd.grad(normed, inputs, slope), torch.autograd.grad(expected, inputs, slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_normalised_in_float32(dtype: torch.dtype):
    x = (200 * torch.randn(3, 64)).to(dtype).requires_grad_()
    weight = torch.randn(64).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    normed = rms_norm(x, weight, 1e-6)
    expected = rms_norm(exact, weight.detach().double(), 1e-6)
    assert normed.dtype == dtype
    torch.testing.assert_close(normed.double(), expected, rtol=1e-2, atol=1e-2)
    (ours,) = torch.autograd.grad(normed.float().sum(), x)
    (theirs,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-2, atol=2e-4)


def test_a_frozen_weight_gets_no_gradient_and_changes_none():
    x, weight = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((3, 5), (5,)))
    rms_norm(x, weight.detach(), 1e-3).sum().backward()
    (expected,) = torch.autograd.grad(rms_norm(x, weight, 1e-3).sum(), x)
    assert torch.equal(x.grad, expected)


def test_gradcheck():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: rms_norm(*inputs, 1e-3), (x, weight))
