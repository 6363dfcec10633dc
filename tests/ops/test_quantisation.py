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


@pytest.mark.parametrize("adds_exactly", [True, False])
@pytest.mark.parametrize("rows", [13, 60])
def test_a_large_number_does_not_hide_small_ones_of_its_row(
    rows: int, adds_exactly: bool, monkeypatch: pytest.MonkeyPatch
):
    # Feed-forwards of pretrained models have such rows; a CPU that cannot add exactly takes another way.
    monkeypatch.setattr(ops, "_adds_exactly", lambda: adds_exactly)
    weight, x = torch.randn(48, 96), torch.randn(rows, 96)
    x[:, 5] = 300.0
    x[-1] = 0.0
    values, scales = ops.quantise_rows(weight)
    values[:, 5] = 0  # what the large number itself gives is not what is asked
    expected = x @ ops.dequantise_rows(values, scales).T
    found = ops.product_of_rows(x, values, scales)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    assert torch.equal(found[-1], torch.zeros(48))


def test_products_of_many_rows_are_those_of_each_alone():
    x = torch.randn(90, 64)
    values, scales = ops.quantise_rows(torch.randn(32, 64))
    whole, parts = (
        ops.product_of_rows(x, values, scales),
        [ops.product_of_rows(part, values, scales) for part in x.split(30)],
    )
    # Sums of whole numbers are exact in any order.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0 if ops._adds_exactly() else 1e-4)


def test_a_row_that_is_no_number_stays_none():
    x = torch.randn(20, 64)
    x[3, 7] = torch.nan
    values, scales = ops.quantise_rows(torch.randn(32, 64))
    found = ops.product_of_rows(x, values, scales)
    assert found[3].isnan().all()
    assert found.isfinite().all(1).sum() == 19


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
