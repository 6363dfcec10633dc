"""Attention is softmax over what may be seen, and nothing where nothing may be."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retentive.ops import attention
from retentive.ops.attention import attention_step
from seeds import seeded


def direct(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """One query at a time, one head at a time; ``allowed`` is (batch, time, past)."""
    batch, heads, time, dim = query.shape
    group = heads // key.shape[1]
    outputs = torch.zeros(batch, heads, time, value.shape[3], dtype=query.dtype)
    for row in range(batch):
        for head in range(heads):
            for now in range(time):
                seen = allowed[row, now].nonzero().flatten()
                if len(seen):
                    scores = key[row, head // group, seen] @ query[row, head, now] / dim**0.5
                    outputs[row, head, now] = scores.softmax(0) @ value[row, head // group, seen]
    return outputs


@given(
    seed=st.integers(0, 999),
    time=st.integers(1, 6),
    earlier=st.integers(0, 5),
    groups=st.sampled_from([(1, 1), (4, 4), (4, 2), (3, 1)]),
    causal=st.booleans(),
    masked=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_is_the_direct_softmax(seed: int, time: int, earlier: int, groups: tuple[int, int], causal: bool, masked: bool):
    random = seeded(seed)
    past = time + earlier

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()

    inputs = normal(2, groups[0], time, 4), normal(2, groups[1], past, 4), normal(2, groups[1], past, 5)
    allowed = torch.rand(2, 1, time, past, generator=random) < 0.4 if masked else None
    visible = torch.ones(2, time, past, dtype=torch.bool) if allowed is None else allowed[:, 0]
    if causal:
        visible = visible & (torch.arange(past) <= torch.arange(earlier, past)[:, None])
    found, expected = attention(*inputs, allowed=allowed, causal=causal), direct(*inputs, visible)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    slope = torch.randn(expected.shape, generator=random, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, slope),
        # Added zeros: a call in which nothing is visible has no graph.
        torch.autograd.grad(expected + sum(0 * x.sum() for x in inputs), inputs, slope),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_who_sees_nothing_says_nothing(dtype: torch.dtype):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 3, 8).to(dtype).requires_grad_() for _ in range(3)]
    allowed = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    allowed[0, 0, 1] = False
    output = attention(*inputs, allowed=allowed)
    assert output.dtype == dtype
    assert output.isfinite().all()
    assert not output[0, :, 1].any()
    assert output[0, :, 0].any()
    gradients = torch.autograd.grad(output[0, :, 1].sum(), inputs)
    assert not any(gradient.any() for gradient in gradients)


def test_one_shared_mask_serves_all_rows():
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 4, 8, dtype=torch.float64) for _ in range(3)]
    allowed = torch.rand(1, 1, 4, 4) < 0.5
    torch.testing.assert_close(
        attention(*inputs, allowed=allowed), direct(*inputs, allowed[:, 0].expand(3, -1, -1)), rtol=0, atol=1e-12
    )


def test_dropout_drops_weights():
    torch.manual_seed(0)
    inputs = [torch.randn(1, 1, 50, 8) for _ in range(3)]
    plain, dropped = attention(*inputs, causal=True), attention(*inputs, causal=True, dropout=0.5)
    assert not torch.equal(plain, dropped)
    torch.manual_seed(1)
    many = torch.stack([attention(*inputs, causal=True, dropout=0.5) for _ in range(2000)]).mean(0)
    assert (many - plain).abs().max() < 0.2, "dropout must not change the mean"


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 2, 4)], "key and value may differ in their last dimension only"),
        ([(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5)], "query and key must have one key_dim, but have 4 and 5"),
        ([(1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)], "the 3 heads of query must be a multiple of the 2 heads"),
        ([(1, 2, 3, 4), (1, 2, 2, 4), (1, 2, 2, 4)], "a causal call needs a key for each of its 3 queries, but has 2"),
    ],
)
def test_messages(shapes: list[tuple[int, ...]], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        attention(*(torch.zeros(shape) for shape in shapes), causal=True)


def test_dtypes_agree():
    half = torch.zeros(1, 1, 2, 4, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=r"query, key and value must have one dtype, but have torch\.bfloat16, torch\."):
        attention(half, half.float(), half.float())


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_step_is_the_attention_of_the_last_query(kv_heads: int, masked: bool, dtype: torch.dtype):
    query, key, value = (torch.randn(3, heads, 6, 4, dtype=dtype) for heads in (4, kv_heads, kv_heads))
    allowed = (torch.rand(3, 6) < 0.5).index_fill(1, torch.tensor([5]), True) if masked else None
    found = attention_step(query[:, :, -1], key, value, allowed)
    whole = attention(query[:, :, -1:], key, value, allowed=None if allowed is None else allowed[:, None, None])
    if kv_heads == 4:
        assert torch.equal(found, whole[:, :, 0])
    else:  # queries of heads that share keys are multiplied together, which may round otherwise
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(found, whole[:, :, 0], rtol=4 * rounding, atol=4 * rounding)


def test_a_bias_is_a_mask():
    query, key, value = (torch.randn(2, 3, time, 4, dtype=torch.float64) for time in (4, 6, 6))
    allowed = (torch.rand(1, 1, 4, 6) < 0.5).index_fill(3, torch.tensor([2]), True)
    bias = torch.zeros(1, 1, 4, 6).masked_fill(~allowed, -torch.inf)
    expected = attention(query, key, value, allowed=allowed)
    torch.testing.assert_close(attention(query, key, value, bias=bias), expected, rtol=0, atol=1e-14)
