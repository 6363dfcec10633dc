"""What the training form promises beyond being right: exact derivatives, linear memory, any precision."""

import math

import pytest
import torch
from torch import Tensor

from ops.direct_sum import GATES, check_long_text, random_case, relative_error
from retentive.ops import (
    gated_retention_chunkwise,
    gated_retention_parallel,
    retention_chunkwise,
)
from retentive.ops.gated_retention import gated_retention, log_decay_gate
from retentive.ops.gated_retention.decay import token_decay_tables
from seeds import seeded


@pytest.mark.parametrize("time", [1, 3, 4, 5, 9])
@pytest.mark.parametrize(("state", "flags"), [(False, False), (True, False), (True, True)])
def test_gradcheck(time: int, state: bool, flags: bool):
    case = random_case(time, time, batch=1, key_dim=2, value_dim=3, state=state, mask=flags, starts=flags, gates="any")
    inputs = [tensor.clone().requires_grad_() for tensor in (case.log_decay, *case[:4]) if tensor is not None]

    def run(log_decay: Tensor, *inputs: Tensor):
        return gated_retention_chunkwise(*inputs, log_decay=log_decay, mask=case.mask, starts=case.starts, chunk_size=4)

    assert torch.autograd.gradcheck(run, inputs)


def test_second_derivatives_of_the_parallel_form():
    case = random_case(0, 5, batch=1, key_dim=2, value_dim=3, mask=True, starts=True, gates="any")
    inputs = [tensor.clone().requires_grad_() for tensor in (case.log_decay, *case[:4])]

    def run(log_decay: Tensor, *inputs: Tensor):
        return gated_retention_parallel(*inputs, log_decay=log_decay, mask=case.mask, starts=case.starts)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("unused", ["output", "state"])
@pytest.mark.parametrize("gates", GATES)
def test_gradient_of_one_result_alone(unused: str, gates: str):
    case = random_case(0, 9, gates=gates)
    gradients = []
    for form in (gated_retention_parallel, gated_retention_chunkwise):
        *inputs, log_decay = (tensor.clone().requires_grad_() for tensor in case[:5])
        output, state = form(*inputs, log_decay=log_decay)
        result = state if unused == "output" else output
        gradients.append(torch.autograd.grad(result.square().sum(), [*inputs, log_decay], materialize_grads=True))
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-12


@pytest.mark.parametrize("wanted", ["state", "log_decay"])
def test_one_input_alone_may_want_a_gradient(wanted: str):
    case = random_case(0, 9, gates="any")
    leaf = getattr(case, wanted).clone().requires_grad_()
    state, log_decay = (leaf if name == wanted else getattr(case, name) for name in ("state", "log_decay"))
    output, _ = gated_retention_chunkwise(*case[:3], state, log_decay=log_decay, chunk_size=4)
    expected, _ = gated_retention_parallel(*case[:3], state, log_decay=log_decay)
    found, theirs = (torch.autograd.grad(result.sum(), leaf)[0] for result in (output, expected))
    assert relative_error(found, theirs) < 1e-12


def test_gradients_of_strong_decays_are_no_rounding_errors():
    # What a decay of 1e-6 lets through is a millionth of what the tokens' own terms are.
    case = random_case(0, 130, key_dim=8, value_dim=8, log_decay=torch.full((2, 2, 130), math.log(1e-6)).double())
    gradients = []
    for dtype in (torch.float32, torch.float64):
        *inputs, log_decay = (tensor.to(dtype).requires_grad_() for tensor in case[:5])
        output, state = gated_retention_chunkwise(*inputs, log_decay=log_decay)
        gradients.append(torch.autograd.grad(output.square().sum() + state.sum(), log_decay)[0])
    assert relative_error(gradients[0], gradients[1]) < 1e-5


def test_memory_kept_for_the_backward_pass_is_the_inputs_and_one_state_a_chunk():
    heads, time, dim, size = 2, 512, 8, 16
    inputs = [torch.randn(1, heads, time, dim, requires_grad=True) for _ in range(3)]
    log_decay = log_decay_gate(torch.randn(1, heads, time)).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gated_retention_chunkwise(*inputs, log_decay=log_decay, chunk_size=size)
    numbers = 3 * heads * time * dim + heads * (time // size) * dim * dim
    assert sum(kept.values()) <= 4 * numbers + 8 * heads * time


def test_memory_that_was_not_written_is_never_read():
    case = random_case(0, 70, mask=True, starts=True, gates="any")
    results = []
    for fill in (False, True):
        inputs = [tensor.clone().requires_grad_() for tensor in (*case[:4], case.log_decay)]
        torch.use_deterministic_algorithms(fill)  # new memory is filled with NaN
        try:
            output, state = gated_retention_chunkwise(
                *inputs[:4], log_decay=inputs[4], mask=case.mask, starts=case.starts, chunk_size=16
            )
            gradients = torch.autograd.grad(output.square().sum() + state.sum(), inputs)
        finally:
            torch.use_deterministic_algorithms(False)
        results.append((output, state, *gradients))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gates", GATES)
def test_every_table_entry_is_a_product_of_decays(dtype: torch.dtype, gates: str):
    size = 64
    log_decay = random_case(0, 2 * size, batch=1, gates=gates).log_decay.unflatten(2, (2, size))
    tables = token_decay_tables(log_decay, dtype)
    gamma = log_decay.exp()
    # Sums of 64 numbers in float64, then exponents that are rounded once.
    tolerance = {"rtol": {torch.float32: 1e-5, torch.float64: 1e-11}[dtype], "atol": 1e-37}
    for key in range(size):
        products = torch.cat([torch.ones_like(gamma[..., :1]), gamma[..., key + 1 :].cumprod(3)], 3)
        assert not tables.intra[..., :key, key].any()
        torch.testing.assert_close(tables.intra[..., key:, key].double(), products, **tolerance)
        torch.testing.assert_close(tables.key[..., key, 0].double(), products[..., -1], **tolerance)
    torch.testing.assert_close(tables.query[..., 0].double(), gamma.cumprod(3), **tolerance)
    torch.testing.assert_close(tables.chunk[..., 0, 0].double(), gamma.prod(3), **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_131072_tokens_stay_finite_and_right(dtype: torch.dtype):
    gates = torch.randn(1, 2, 131_072, generator=seeded(1))
    log_decay = log_decay_gate(gates + torch.tensor([0.0, 6.0])[:, None])
    clock = log_decay[0].double().cumsum(1)

    def weights(now: int) -> Tensor:
        return torch.exp(clock[:, now, None] - clock[:, : now + 1])

    check_long_text(gated_retention_chunkwise, dtype, log_decay, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_decays_close_to_one_are_kept_in_every_dtype(dtype: torch.dtype):
    # In bfloat16 1 - 2**-9 rounds to 1: nothing would fade.
    log_decay = torch.full((1, 1, 4097), math.log1p(-(2.0**-9)))
    key = torch.zeros(1, 1, 4097, 1, dtype=dtype)
    key[0, 0, 0] = 1
    ones = torch.ones_like(key)
    expected = math.exp(4096 * math.log1p(-(2.0**-9)))
    for form in ("parallel", "recurrent", "chunkwise"):
        output, state = gated_retention(ones, key, ones, log_decay=log_decay, form=form)
        assert output[0, 0, -1].item() == pytest.approx(expected, rel=1e-2)
        assert state.item() == pytest.approx(expected, rel=1e-2 if form == "chunkwise" else 1e-3)


def test_the_chunk_size_changes_no_result():
    case = random_case(3, 150, mask=True, starts=True, gates="paper")
    inputs = [tensor.clone().requires_grad_() for tensor in (*case[:4], case.log_decay)]
    results = []
    for size in (1, 2, 63, 64, 65, 149, 150, 151, 1000):
        output, state = gated_retention_chunkwise(
            *inputs[:4], log_decay=inputs[4], mask=case.mask, starts=case.starts, chunk_size=size
        )
        results.append((output, state, *torch.autograd.grad(output.square().sum() + state.sum(), inputs)))
    for result in results[1:]:
        for ours, theirs in zip(result, results[0], strict=True):
            assert relative_error(ours, theirs) < 1e-12


def test_retention_keeps_its_constant_decay_without_a_gradient():
    with pytest.raises(ValueError, match="log_decay is a constant of the model and gets no gradient"):
        retention_chunkwise(*torch.randn(3, 1, 2, 5, 4), log_decay=torch.full((2,), -0.1).requires_grad_())
