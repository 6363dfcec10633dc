"""Weights as whole numbers of 8 and 4 bits: products are those of the rounded weight."""

import pytest
import torch

from retentive.ops import quantisation as ops


@pytest.mark.parametrize("rows", [1, 5, 200])
def test_products_are_those_of_the_rounded_weight(rows: int):
    torch.manual_seed(0)
    weight, x = torch.randn(48, 96), torch.randn(2, rows, 96)
    values, scales = ops.quantise_rows(weight)
    expected = x @ ops.dequantise_rows(values, scales).T
    assert (ops.product_of_rows(x, values, scales) - expected).abs().max() < 0.01 * expected.abs().max()
    assert (ops.dequantise_rows(values, scales) - weight).abs().max() <= 0.51 * scales.max()
    small, both = ops.quantise_groups(weight, 32)
    rounded = ops.dequantise_groups(small, both, torch.float32)
    expected = x @ rounded.T
    assert (ops.product_of_groups(x, ops.pack(small), both) - expected).abs().max() < 0.02 * expected.abs().max()
    assert (rounded - weight).abs().max() <= 0.6 * both[..., 0].max()


@pytest.mark.parametrize("inputs", [5, 24, 40])
def test_a_number_of_inputs_that_the_kernel_cannot_read_is_computed(inputs: int):
    # torch's kernel of 8 bits reads past the end of a row unless it has a multiple of 16 numbers.
    weight, x = torch.randn(7, inputs), torch.randn(3, inputs)
    values, scales = ops.quantise_rows(weight)
    assert (ops.product_of_rows(x, values, scales) - x @ ops.dequantise_rows(values, scales).T).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(16, 32), (48, 96), (208, 64)])
def test_unpacking_undoes_packing(shape: tuple[int, int]):
    values = torch.randint(0, 256, (shape[0], shape[1] // 2), dtype=torch.uint8)
    assert torch.equal(ops.unpack(ops.pack(values)), values)


def test_weights_that_were_four_bits_are_kept_exactly():
    values = torch.randint(0, 16, (16, 64))
    values[:, 0::32], values[:, 1::32] = 0, 15  # as in a file of llama.cpp: the whole range is used
    weight = values * 0.25 - 2.0
    small, both = ops.quantise_groups(weight, 32)
    assert torch.equal(ops.dequantise_groups(small, both, torch.float32), weight)
