"""What a decay of each token alone can do: be that of a head, forget all, and come of a gate."""

import math

import pytest
import torch

from ops.direct_sum import random_case, relative_error
from ops.forms import FORMS
from retentive.ops import gated_retention_recurrent, log_decay_geometric
from retentive.ops.gated_retention import log_decay_gate, token_decay
from retentive.ops.retention import recurrent_step, retention

GATED = FORMS["gated"]


@pytest.mark.parametrize("name", ["parallel", "recurrent", "chunkwise of 4", "auto", "reference"])
def test_one_decay_for_all_tokens_is_retention(name: str):
    case = random_case(6, 150, mask=True, starts=True, log_decay=log_decay_geometric(2))
    inputs = [tensor.clone().requires_grad_() for tensor in case[:4]]
    rate = case.log_decay[None, :, None].expand(2, 2, 150)
    results = []
    for output, state in (
        GATED[name](*inputs, log_decay=rate, mask=case.mask, starts=case.starts),
        retention(*inputs, **case.flags()),
    ):
        results.append((output, state, *torch.autograd.grad(output.square().sum() + state.square().sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        assert relative_error(ours, theirs) < 1e-12


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_decay_of_zero_forgets_like_the_start_of_a_document(name: str, dtype: torch.dtype):
    case = random_case(7, 13, starts=True, gates="any")
    inputs = [tensor.to(dtype).requires_grad_() for tensor in (*case[:4], case.log_decay)]
    forgetting = inputs[4].masked_fill(case.starts[:, None], -math.inf)
    results = []
    for log_decay, starts in ((forgetting, None), (inputs[4], case.starts)):
        output, state = GATED[name](*inputs[:4], log_decay=log_decay, starts=starts)
        results.append((output, state, *torch.autograd.grad(output.square().sum() + state.sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.isfinite().all()
        assert relative_error(ours, theirs.double()) < (1e-12 if dtype is torch.float64 else 2e-6)


def test_a_step_can_overwrite_the_state():
    case = random_case(4, 1, gates="any")
    query, key, value, log_decay = (tensor[:, :, 0] for tensor in (*case[:3], case.log_decay))
    expected = gated_retention_recurrent(query, key, value, case.state, log_decay=log_decay)
    own = case.state.clone()
    output, after = recurrent_step(query, key, value, own, token_decay(log_decay, own.dtype), overwrite=True)
    assert after.data_ptr() == own.data_ptr()
    assert torch.equal(output, expected[0])
    assert torch.equal(own, expected[1])


@pytest.mark.parametrize("temperature", [1.0, 16.0])
def test_the_gate_is_the_root_of_a_sigmoid_and_never_one(temperature: float):
    logits = torch.linspace(-30, 8, 39, dtype=torch.float64)
    expected = torch.sigmoid(logits) ** (1 / temperature)
    assert relative_error(log_decay_gate(logits, temperature).exp(), expected) < 1e-14
    half = log_decay_gate(logits.bfloat16(), temperature)
    assert half.dtype == torch.float32
    assert (half < 0).all()
    assert relative_error(half, log_decay_gate(logits, temperature)) < 1e-6
