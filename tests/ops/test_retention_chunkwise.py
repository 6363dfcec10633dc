"""What the training form promises beyond being right: exact derivatives, linear memory, any precision."""

import math

import pytest
import torch
from torch import Tensor

from ops.direct_sum import check_long_text, random_case, relative_error
from ops.forms import FORMS, KINDS, STEPS
from retentive.ops import log_decay_geometric, precision, retention_chunkwise, retention_parallel
from retentive.ops.gated_retention import log_decay_gate
from retentive.ops.retention import retention


@pytest.mark.parametrize("time", [1, 3, 4, 5, 9])
@pytest.mark.parametrize(("state", "flags"), [(False, False), (True, False), (True, True)])
def test_gradcheck(time: int, state: bool, flags: bool):
    case = random_case(time, time, batch=1, key_dim=2, value_dim=3, state=state, mask=flags, starts=flags)
    inputs = [tensor.clone().requires_grad_() for tensor in case[:4] if tensor is not None]
    assert torch.autograd.gradcheck(lambda *args: retention_chunkwise(*args, chunk_size=4, **case.flags()), inputs)


@pytest.mark.parametrize("unused", ["output", "state"])
def test_gradient_of_one_result_alone(unused: str):
    case = random_case(0, 9)
    gradients = []
    for form in (retention_parallel, retention_chunkwise):
        inputs = [tensor.clone().requires_grad_() for tensor in case[:4]]
        output, state = form(*inputs, log_decay=case.log_decay)
        result = state if unused == "output" else output
        gradients.append(torch.autograd.grad(result.square().sum(), inputs, materialize_grads=True))
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_the_state_alone_may_want_a_gradient():
    case = random_case(0, 9)
    state = case.state.clone().requires_grad_()
    output, _ = retention_chunkwise(*case[:3], state, log_decay=case.log_decay, chunk_size=4)
    expected, _ = retention_parallel(*case[:3], state, log_decay=case.log_decay)
    found, theirs = (torch.autograd.grad(result.sum(), state)[0] for result in (output, expected))
    assert relative_error(found, theirs) < 1e-12


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("order", ["batch heads time dim", "batch time heads dim", "time heads dim batch", "slice"])
def test_memory_order_does_not_matter(order: str, operator: str):
    case = random_case(0, 13, **KINDS[operator])
    log_decay = case.log_decay
    if order == "slice":
        inputs = [
            torch.cat([tensor, torch.full_like(tensor, math.nan)], 3)[..., : tensor.shape[3]] for tensor in case[:3]
        ]
        if operator == "gated":
            log_decay = torch.cat([log_decay, torch.full_like(log_decay, math.nan)], 1)[:, : log_decay.shape[1]]
    else:
        names = ["batch", "heads", "time", "dim"]
        there = [names.index(name) for name in order.split()]
        back = [order.split().index(name) for name in names]
        inputs = [tensor.permute(there).contiguous().permute(back) for tensor in case[:3]]
    plain = [tensor.contiguous() for tensor in case[:3]]
    expected = FORMS[operator]["parallel"](*plain, case.state, log_decay=case.log_decay.contiguous())
    found = FORMS[operator]["chunkwise of 4"](*inputs, case.state, log_decay=log_decay)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_memory_kept_for_the_backward_pass_is_the_inputs_and_one_state_a_chunk():
    heads, time, dim, size = 2, 512, 8, 16
    inputs = [torch.randn(1, heads, time, dim, requires_grad=True) for _ in range(3)]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        retention_chunkwise(*inputs, chunk_size=size)
    tables = heads * (2 * size * size + 8 * size)
    assert sum(kept.values()) <= 3 * heads * time * dim + heads * (time // size) * dim * dim + tables
    assert max(kept.values()) < heads * time * time / 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_131072_tokens_stay_finite_and_right(dtype: torch.dtype):
    log_decay = log_decay_geometric(10)[[0, 9]]  # under the slowest decay, a sum is of 2 ** 14 values

    def weights(now: int) -> Tensor:
        return torch.exp(log_decay[:, None] * (now - torch.arange(now + 1)))

    check_long_text(retention_chunkwise, dtype, log_decay, weights)


@pytest.mark.parametrize("operator", FORMS)
def test_float16_scores_beyond_its_range_are_summed_in_float32(operator: str):
    # Every score is 64 * 48 * 48 = 147,456, beyond float16; weighed by small values the output is within it.
    query = key = torch.full((1, 1, 70, 64), 48.0, dtype=torch.float16)
    value = torch.full((1, 1, 70, 2), 2.0**-10, dtype=torch.float16)
    log_decay = log_decay_geometric(1) if operator == "retention" else log_decay_gate(torch.randn(1, 1, 70))
    forms = FORMS[operator]
    expected, expected_state = forms["parallel"](query.double(), key.double(), value.double(), log_decay=log_decay)
    for name in ("parallel", "recurrent", "chunkwise of 4", "auto"):
        output, state = forms[name](query, key, value, log_decay=log_decay)
        assert relative_error(output, expected) < 1e-3
        assert relative_error(state, expected_state) < 1e-5


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients(dtype: torch.dtype, native: bool, operator: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: native)
    case = random_case(0, 150, state=False, key_dim=8, value_dim=8, gates="paper" if operator == "gated" else None)
    half = {field: getattr(case, field).to(dtype).requires_grad_() for field in case.learned()}
    exact = {field: tensor.detach().double().requires_grad_() for field, tensor in half.items()}
    slope = torch.randn_like(case.value).to(dtype)

    def gradients(leaves: dict[str, Tensor], slope: Tensor) -> tuple[Tensor, ...]:
        output, _ = FORMS[operator]["auto"](*case._replace(**leaves)[:4], **case._replace(**leaves).flags())
        return torch.autograd.grad(output, [*leaves.values()], slope)

    found, expected = gradients(half, slope), gradients(exact, slope.double())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        assert relative_error(ours, theirs) < 2e-2


@pytest.mark.parametrize("operator", FORMS)
def test_autocast_rounds_no_float32_input(operator: str):
    inputs = [torch.randn(1, 2, 70, 4) for _ in range(3)]
    state, step = torch.randn(1, 2, 4, 4), [tensor[:, :, 0] for tensor in inputs]
    log_decay = log_decay_geometric(2) if operator == "retention" else log_decay_gate(torch.randn(1, 2, 70))
    now = log_decay if operator == "retention" else log_decay[:, :, 0]

    def run() -> list[tuple[Tensor, Tensor]]:
        calls = [form(*inputs, state, log_decay=log_decay) for form in FORMS[operator].values()]
        return [*calls, STEPS[operator](*step, state, log_decay=now)]

    plain = run()
    with torch.autocast("cpu", torch.bfloat16):
        cast = run()
    for ours, theirs in zip(cast, plain, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_states_are_float32_or_wider(dtype: torch.dtype, operator: str):
    inputs = [torch.randn(1, 2, 5, 4).to(dtype) for _ in range(3)]
    log_decay = log_decay_geometric(2) if operator == "retention" else log_decay_gate(torch.randn(1, 2, 5))
    for form in FORMS[operator].values():
        output, state = form(*inputs, log_decay=log_decay)
        assert output.dtype == dtype
        assert state.dtype == torch.promote_types(dtype, torch.float32)


def test_a_slow_head_remembers_in_bfloat16():
    # gamma = 1 - 2**-9 is 1.0 in bfloat16: after 4096 zeros, 1 would be left of 1 instead of 0.0003.
    log_decay = torch.log1p(torch.tensor([-(2.0**-9)], dtype=torch.float64))
    key = torch.zeros(1, 1, 4097, 1, dtype=torch.bfloat16)
    key[0, 0, 0] = 1
    ones = torch.ones_like(key)
    expected = math.exp(4096 * float(log_decay))
    for form in ("parallel", "recurrent", "chunkwise"):
        output, state = retention(ones, key, ones, log_decay=log_decay, form=form)
        assert output[0, 0, -1].item() == pytest.approx(expected, rel=1e-2)
        assert state.item() == pytest.approx(expected, rel=1e-2 if form == "chunkwise" else 1e-3)
