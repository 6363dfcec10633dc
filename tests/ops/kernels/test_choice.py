"""Where kernels are chosen, and how they multiply."""

import pytest
import torch

from retentive.ops.kernels.choice import has_kernel
from retentive.ops.kernels.launch import products_of


def test_no_kernel_outside_of_gpus():
    assert not has_kernel(torch.zeros(1))
    assert not has_kernel(torch.zeros(1, device="meta"), None)


@pytest.mark.parametrize("setting", ["the new one", "the old one"])
def test_float32_is_rounded_only_where_the_user_allows_it(setting: str):
    settings = torch.backends.cuda.matmul
    assert products_of(torch.zeros(1)) == (torch.float32, "ieee")
    before = settings.fp32_precision
    try:
        if setting == "the new one":
            settings.fp32_precision = "tf32"
        else:
            settings.allow_tf32 = True
        assert products_of(torch.zeros(1)) == (torch.float32, "tf32")
        assert products_of(torch.zeros(1, dtype=torch.float64)) == (torch.float64, "ieee")
    finally:
        if setting == "the new one":
            settings.fp32_precision = before
        else:
            settings.allow_tf32 = False
    assert products_of(torch.zeros(1)) == (torch.float32, "ieee")


def test_products_of_half_types():
    assert products_of(torch.zeros(1, dtype=torch.float16)) == (torch.float32, "tf32")
    assert products_of(torch.zeros(1, dtype=torch.bfloat16))[1] == "ieee"
