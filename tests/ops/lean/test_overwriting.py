"""A product is written over memory only where nothing else can need it."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, vmap

from retentive.ops.lean.overwriting import may_write_over, times_heads
from seeds import seeded


def factors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeded(0)
    fresh = torch.randn(2, 3, 8, dtype=torch.float64, generator=generator)
    return fresh, torch.randn(2, 3, 4, 2, dtype=torch.float64, generator=generator)


def test_the_product_stands_in_the_memory_of_its_first_factor_without_gradients_alone():
    fresh, heads = factors()
    before, expected = fresh.clone(), fresh * heads.flatten(-2)
    assert torch.equal(times_heads(fresh, heads), expected)
    assert torch.equal(fresh, before)
    with torch.no_grad():
        found = times_heads(fresh, heads)
    assert torch.equal(found, expected)
    assert found.data_ptr() == fresh.data_ptr()


@pytest.mark.parametrize("gradients", [True, False])
def test_nothing_is_written_over_where_something_follows_the_call(gradients: bool):
    fresh, heads = factors()
    before, expected = fresh.clone(), fresh * heads.flatten(-2)
    with torch.set_grad_enabled(gradients):
        assert torch.equal(vmap(times_heads, (None, 0))(fresh[0], heads), fresh[0] * heads.flatten(-2))
        slope = grad(lambda fresh: times_heads(fresh, heads).sum())(fresh)
        assert torch.equal(slope, heads.flatten(-2))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(fresh, torch.ones_like(fresh))
            assert not may_write_over()
            assert torch.equal(forward_ad.unpack_dual(times_heads(dual, heads)).tangent, heads.flatten(-2))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            assert torch.equal(times_heads(fresh, heads), expected)
    assert torch.equal(fresh, before)
