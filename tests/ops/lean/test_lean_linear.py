"""A projection that keeps what its input is made of is the projection."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, relu, silu

import retentive.ops.lean.lean_linear as ops
from retentive.ops.lean.activations import activation_backward, gate_backward
from retentive.ops.lean.lean_linear import Back, lean_linear

SLOPE = partial(activation_backward, activation="gelu")


def gated(inner: Tensor) -> Tensor:
    first, second = inner.chunk(2, -1)
    return gelu(first) * second


CASES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], Back]] = {
    "gelu": (gelu, (2, 5, 6), SLOPE),
    "tanh": (partial(gelu, approximate="tanh"), (2, 5, 6), partial(activation_backward, activation="gelu_tanh")),
    "silu": (silu, (3, 6), partial(activation_backward, activation="swish")),
    "relu": (relu, (3, 6), partial(activation_backward, activation="relu")),
    "gate": (gated, (2, 5, 12), partial(gate_backward, activation="gelu")),
}


def leaves(shape: tuple[int, ...], *, bias: bool = True) -> list[Tensor | None]:
    torch.manual_seed(0)
    made = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in (shape, (4, 6), (4,))]
    return made if bias else [*made[:2], None]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("at_once", [1, 1 << 20], ids=["a row", "all rows"])
def test_it_is_the_plain_product(name: str, bias: bool, at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, "_AT_ONCE", at_once)
    make, shape, back = CASES[name]
    ours, plain = leaves(shape, bias=bias), leaves(shape, bias=bias)
    output = lean_linear(make, *ours, back)
    expected = linear(make(plain[0]), *plain[1:])
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-14 if at_once == 1 else 0)
    weights = torch.randn_like(expected)
    output.backward(weights)
    expected.backward(weights)
    for one, other in zip(ours, plain, strict=True):
        if one is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives_are_those_of_differences(name: str):
    make, shape, back = CASES[name]
    assert torch.autograd.gradcheck(lambda *given: lean_linear(make, *given, back), tuple(leaves(shape)))
    assert torch.autograd.gradgradcheck(lambda *given: lean_linear(make, *given, back), tuple(leaves(shape)))


def test_only_those_that_need_a_gradient_get_one():
    for frozen in range(3):
        given = leaves((2, 5, 6))
        given[frozen].requires_grad_(False)
        lean_linear(gelu, *given, SLOPE).sum().backward()
        assert [tensor.grad is not None for tensor in given] == [place != frozen for place in range(3)]


def test_what_is_made_is_not_kept():
    source, weight, bias = leaves((2, 5, 6))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        lean_linear(gelu, source, weight, bias, SLOPE)
    assert {tensor.data_ptr() for tensor in kept} == {source.data_ptr(), weight.data_ptr()}


def test_under_autocast_it_is_what_the_plain_product_is():
    source, weight, bias = (tensor.detach().float().requires_grad_() for tensor in leaves((2, 5, 6)))
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = lean_linear(gelu, source, weight, bias, SLOPE), linear(gelu(source), weight, bias)
    assert output.dtype is torch.bfloat16
    assert torch.equal(output, expected)
    output.float().sum().backward()
    assert source.grad is not None


def test_shapes_alone_can_be_trained():
    given = [tensor.detach().to("meta").requires_grad_() for tensor in leaves((2, 5, 6))]
    lean_linear(gelu, *given, SLOPE).sum().backward()
    assert [tensor.grad.shape for tensor in given] == [tensor.shape for tensor in given]


@pytest.mark.parametrize("shape", [(2, 0, 6), (0, 5, 6), (6,)])
def test_there_may_be_nothing_and_one_vector(shape: tuple[int, ...]):
    given, plain = leaves(shape), leaves(shape)
    lean_linear(gelu, *given, SLOPE).sum().backward()
    linear(gelu(plain[0]), *plain[1:]).sum().backward()
    for one, other in zip(given, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-14)


def test_sums_of_half_precision_are_not_rounded_piece_by_piece(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, "_AT_ONCE", 2)
    source, weight = torch.ones(1, 4096, 2), torch.ones(3, 2)
    given = [tensor.bfloat16().requires_grad_() for tensor in (source, weight)]
    lean_linear(relu, *given, None, partial(activation_backward, activation="relu")).sum().backward()
    assert (given[1].grad == 4096).all()  # one by one, sums in bfloat16 end at 256
