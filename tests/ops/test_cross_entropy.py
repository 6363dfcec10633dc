"""The chunked linear cross-entropy is torch's, values and gradients."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from retentive.ops.cross_entropy import linear_cross_entropy


@given(
    tokens=st.integers(1, 20), chunk_size=st.none() | st.integers(1, 25), biased=st.booleans(), seed=st.integers(0, 999)
)
@settings(deadline=None, max_examples=30)
def test_equals_torch(tokens: int, chunk_size: int, biased: bool, seed: int):
    torch.manual_seed(seed)
    hidden = torch.randn(tokens, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True) if biased else None
    labels = torch.randint(0, 7, (tokens,))
    labels[torch.rand(tokens) < 0.3] = -100
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    loss = linear_cross_entropy(hidden, weight, labels, bias, chunk_size=chunk_size)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / max(int((labels != -100).sum()), 1)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    theirs = torch.autograd.grad(3 * expected, inputs)
    for _ in range(2):  # a graph that is kept can be asked twice
        ours = torch.autograd.grad(3 * loss, inputs, retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_large_vocabulary_is_never_whole_in_memory():
    program = """
import resource, torch
from retentive.ops.cross_entropy import linear_cross_entropy
torch.set_num_threads(1)
hidden = torch.randn(4096, 8, requires_grad=True)
weight = torch.randn(50_000, 8, requires_grad=True)
labels = torch.randint(0, 50_000, (4096,))
linear_cross_entropy(hidden[:64], weight, labels[:64]).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
linear_cross_entropy(hidden, weight, labels).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    all_logits = 4096 * 50_000 * 4 // 1024
    assert int(run.stdout) < all_logits / 10


def test_half_precision_keeps_its_sums_in_float32():
    torch.manual_seed(0)
    hidden, weight = torch.randn(600, 8), torch.randn(50, 8)
    labels = torch.randint(0, 50, (600,))
    leaves = [tensor.bfloat16().requires_grad_() for tensor in (hidden, weight)]
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    loss = linear_cross_entropy(*leaves, labels, chunk_size=16)
    expected = linear_cross_entropy(*exact, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=0)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, exact), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() < 2e-2 * theirs.norm()


def test_no_gradient_is_made_where_none_is_asked_for():
    hidden, weight = torch.randn(5, 4), torch.randn(7, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.randint(0, 7, (5,)))
    (gradient,) = torch.autograd.grad(loss, [weight])
    assert gradient.shape == weight.shape
    with torch.no_grad(), FlopCounterMode(display=False) as products:
        assert not linear_cross_entropy(hidden, weight, torch.randint(0, 7, (5,))).requires_grad
    assert products.get_total_flops() == 2 * 5 * 4 * 7  # the logits alone


def test_a_chunk_has_at_least_one_row():
    with pytest.raises(ValueError, match="chunk_size must be at least 1 row of logits, but is 0"):
        linear_cross_entropy(torch.randn(2, 3), torch.randn(4, 3), torch.tensor([1, 2]), chunk_size=0)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_second_backward_pass_adds_the_same_gradient_once_more(scale: float):
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.randint(9, (6,))) * scale
    loss.backward(retain_graph=True)
    assert hidden.grad is not None
    assert weight.grad is not None
    first = hidden.grad.clone(), weight.grad.clone()
    loss.backward()
    assert torch.equal(hidden.grad, 2 * first[0])
    assert torch.equal(weight.grad, 2 * first[1])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_that_are_asked_for_twice_are_two_tensors():
    hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.randint(9, (6,)))
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (second,) = torch.autograd.grad(loss, weight, retain_graph=True)
    expected = first.clone()
    first.mul_(0.5)
    assert torch.equal(second, expected)
    (batched,) = torch.autograd.grad(loss, weight, torch.tensor([1.0, 2.0]), is_grads_batched=True)
    torch.testing.assert_close(batched, torch.stack((expected, 2 * expected)))


def test_a_torch_that_cannot_say_whether_the_graph_is_kept_gives_the_same_gradient(monkeypatch: pytest.MonkeyPatch):
    found: list[torch.Tensor] = []
    for can_say in (True, False):
        torch.manual_seed(0)
        hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
        if not can_say:
            monkeypatch.delattr(torch._C._autograd, "_get_current_graph_task_keep_graph")
        linear_cross_entropy(hidden, weight, torch.randint(9, (6,))).backward()
        assert weight.grad is not None
        found.append(weight.grad)
    assert torch.equal(*found)
