"""Heads that are rotated where they are projected to are those of a projection and a rotation."""

import pytest
import torch
from torch import Tensor

from retentive.ops.lean.rotated_linear import rotated_linear
from retentive.ops.rotary import RotaryPairs, rotary_frequencies, rotary_tables, rotate


def one_after_another(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, pairs: RotaryPairs) -> Tensor:
    heads = torch.nn.functional.linear(x, weight).unflatten(-1, (-1, 4)).transpose(1, 2)
    return rotate(heads, cos, sin, pairs=pairs)


@pytest.mark.parametrize("pairs", ["interleaved", "half"])
@pytest.mark.parametrize("rows", [1, 2])
def test_it_is_a_projection_and_a_rotation(pairs: RotaryPairs, rows: int):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, dtype=torch.float64).mT.requires_grad_()
    weight = torch.randn(12, 6, dtype=torch.float64, requires_grad=True)
    tables = rotary_tables(torch.randint(100, (rows, 5)), rotary_frequencies(4), x.dtype)
    expected = one_after_another(x, weight, *tables, pairs)
    torch.testing.assert_close(rotated_linear(x, weight, *tables, pairs=pairs), expected, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(lambda *given: rotated_linear(*given, *tables, pairs=pairs), (x, weight))
    assert torch.autograd.gradgradcheck(lambda *given: rotated_linear(*given, *tables, pairs=pairs), (x, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rotated_in_float32(dtype: torch.dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 6).to(dtype), torch.randn(12, 6).to(dtype)
    tables = rotary_tables(torch.arange(5)[None], rotary_frequencies(4))
    found = rotated_linear(x, weight, *tables)
    assert found.dtype is dtype
    assert torch.equal(found, one_after_another(x, weight, *tables, "interleaved"))


def test_under_autocast_it_is_what_the_plain_product_is():
    x, weight = torch.randn(2, 5, 6), torch.randn(12, 6)
    tables = rotary_tables(torch.arange(5)[None], rotary_frequencies(4))
    with torch.autocast("cpu", torch.bfloat16):
        assert rotated_linear(x, weight, *tables).dtype is torch.bfloat16


@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6)])
def test_nothing_may_be_rotated(shape: tuple[int, int, int]):
    tables = rotary_tables(torch.arange(shape[1])[None], rotary_frequencies(4))
    assert rotated_linear(torch.randn(shape), torch.randn(12, 6), *tables).shape == (shape[0], 3, shape[1], 4)
