"""All forms of gated retention are the direct sum: values, states and gradients, with padding, documents and cuts."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.direct_sum import GATES, Case, direct_retention, random_case, relative_error
from retentive.ops import gated_retention_recurrent, gated_retention_reference, log_decay_geometric
from retentive.ops.gated_retention import gated_retention, log_decay_gate, token_decay
from retentive.ops.retention import recurrent_step, retention

Result = tuple[Tensor, Tensor]
FORMS: dict[str, Callable[..., Result]] = {
    "parallel": lambda *inputs, **flags: gated_retention(*inputs, form="parallel", **flags),
    "recurrent": lambda *inputs, **flags: gated_retention(*inputs, form="recurrent", **flags),
    "chunkwise of 4": lambda *inputs, **flags: gated_retention(*inputs, form="chunkwise", chunk_size=4, **flags),
    "chunkwise of 1": lambda *inputs, **flags: gated_retention(*inputs, form="chunkwise", chunk_size=1, **flags),
    "auto": gated_retention,
    "reference": gated_retention_reference,
}
TOLERANCE = {"parallel": 2e-6, "chunkwise of 4": 2e-6, "recurrent": 1e-5}

cases = st.builds(
    random_case,
    seed=st.integers(0, 10_000),
    time=st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9]),
    batch=st.integers(1, 2),
    heads=st.just(2),
    key_dim=st.sampled_from([1, 2, 3, 7]),
    value_dim=st.sampled_from([1, 2, 5]),
    state=st.booleans(),
    mask=st.booleans(),
    starts=st.booleans(),
    gates=st.sampled_from(list(GATES)),
)


@given(case=cases)
@settings(deadline=None, max_examples=50)
def test_every_form_is_the_direct_sum(case: Case):
    expected = direct_retention(*case)
    for name, form in FORMS.items():
        found = form(*case[:4], **case.flags())
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs.shape, name
            assert relative_error(ours, theirs) < 1e-12, name


@pytest.mark.parametrize("name", TOLERANCE)
@given(case=cases)
@settings(deadline=None, max_examples=15)
def test_float32_values_and_gradients(name: str, case: Case):
    exact = [case.query, case.key, case.value, case.log_decay, *([] if case.state is None else [case.state])]
    single = [tensor.detach().float().requires_grad_() for tensor in exact]
    exact = [tensor.detach().double().requires_grad_() for tensor in single]

    def call(form: Callable[..., Result], inputs: list[Tensor]) -> Result:
        query, key, value, log_decay, *state = inputs
        return form(query, key, value, state[0] if state else None, log_decay, case.mask, case.starts)

    def named(query, key, value, state, log_decay, mask, starts):
        return FORMS[name](query, key, value, state, log_decay=log_decay, mask=mask, starts=starts)

    found = call(named, single)
    # Added zeros: where all is padding or forgotten, a result by hand has no graph.
    expected = [tensor + sum(0 * leaf.sum() for leaf in exact) for tensor in call(direct_retention, exact)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) < TOLERANCE[name]
    slopes = [torch.randn_like(tensor) for tensor in expected]
    for ours, theirs in zip(
        torch.autograd.grad(found, single, [slope.float() for slope in slopes], materialize_grads=True),
        torch.autograd.grad(expected, exact, slopes, materialize_grads=True),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) < 1e-5


@given(case=cases, data=st.data())
@settings(deadline=None, max_examples=40)
def test_cut_anywhere_in_any_forms_equals_one_call(case: Case, data: st.DataObject):
    time = case.query.shape[2]
    cuts = sorted(data.draw(st.sets(st.integers(1, time), max_size=4)) | {0, time})
    outputs, state = [], case.state
    for first, last in pairwise(cuts):
        form = FORMS[data.draw(st.sampled_from(list(FORMS)))]
        part = [tensor[:, :, first:last] for tensor in case[:3]]
        mask, starts = (None if flags is None else flags[:, first:last] for flags in (case.mask, case.starts))
        output, state = form(*part, state, log_decay=case.log_decay[:, :, first:last], mask=mask, starts=starts)
        outputs.append(output)
    expected = direct_retention(*case)
    assert relative_error(torch.cat(outputs, 2), expected[0]) < 1e-12
    assert relative_error(state, expected[1]) < 1e-12


@given(case=cases)
@settings(deadline=None, max_examples=15)
def test_one_step_at_a_time_equals_one_call(case: Case):
    expected = direct_retention(*case[:5], None, None)
    state, outputs = case.state, []
    for time in range(case.query.shape[2]):
        step = (tensor[:, :, time] for tensor in case[:3])
        output, state = gated_retention_recurrent(*step, state, log_decay=case.log_decay[:, :, time])
        outputs.append(output)
    assert relative_error(torch.stack(outputs, 2), expected[0]) < 1e-12
    assert relative_error(state, expected[1]) < 1e-12


@pytest.mark.parametrize("name", ["parallel", "recurrent", "chunkwise of 4", "auto", "reference"])
def test_one_decay_for_all_tokens_is_retention(name: str):
    case = random_case(6, 150, mask=True, starts=True, log_decay=log_decay_geometric(2))
    inputs = [tensor.clone().requires_grad_() for tensor in case[:4]]
    rate = case.log_decay[None, :, None].expand(2, 2, 150)
    results = []
    for output, state in (
        FORMS[name](*inputs, log_decay=rate, mask=case.mask, starts=case.starts),
        retention(*inputs, **case.flags()),
    ):
        results.append((output, state, *torch.autograd.grad(output.square().sum() + state.square().sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        assert relative_error(ours, theirs) < 1e-12


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_decay_of_zero_forgets_like_the_start_of_a_document(name: str, dtype: torch.dtype):
    case = random_case(7, 13, starts=True, gates="any")
    inputs = [tensor.to(dtype).requires_grad_() for tensor in (*case[:4], case.log_decay)]
    forgetting = inputs[4].masked_fill(case.starts[:, None], -math.inf)
    results = []
    for log_decay, starts in ((forgetting, None), (inputs[4], case.starts)):
        output, state = FORMS[name](*inputs[:4], log_decay=log_decay, starts=starts)
        results.append((output, state, *torch.autograd.grad(output.square().sum() + state.sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.isfinite().all()
        assert relative_error(ours, theirs.double()) < (1e-12 if dtype is torch.float64 else 2e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_padding_may_hold_anything(name: str, garbage: float):
    case = random_case(1, 13, mask=True, starts=True, gates="any")
    assert case.mask is not None
    padding = ~case.mask[:, None, :, None]
    clean = [tensor.detach().clone().requires_grad_() for tensor in (*case[:3], case.log_decay, case.state)]
    dirty = [tensor.detach().masked_fill(padding, garbage).requires_grad_() for tensor in case[:3]]
    dirty.append(case.log_decay.masked_fill(padding[..., 0], garbage).requires_grad_())
    dirty.append(case.state.detach().clone().requires_grad_())
    slope = torch.randn_like(case.value)
    results = []
    for inputs, slopes in ((clean, slope), (dirty, slope.masked_fill(padding, garbage))):
        query, key, value, log_decay, state = inputs
        output, after = FORMS[name](query, key, value, state, log_decay=log_decay, mask=case.mask, starts=case.starts)
        gradients = torch.autograd.grad((output, after), inputs, (slopes, torch.ones_like(after)))
        results.append((output, after, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    output, _, *gradients = results[1]
    for tensor in (output, *gradients[:3], gradients[3].unsqueeze(3)):
        assert not tensor.masked_select(padding).any(), "padding must read nothing and get no gradient"


@pytest.mark.parametrize("name", FORMS)
def test_documents_in_one_row_are_separate(name: str):
    case = random_case(2, 13, batch=1, state=True, gates="any")
    begins = [5, 6, 11]
    starts = torch.zeros(1, 13, dtype=torch.bool)
    starts[0, begins] = True
    inputs = [tensor.clone().requires_grad_() for tensor in (*case[:3], case.log_decay)]
    output, state = FORMS[name](*inputs[:3], case.state, log_decay=inputs[3], starts=starts)
    slope = torch.randn_like(output)
    gradients = torch.autograd.grad((output * slope).sum() + state.sum(), inputs)
    carried = case.state
    for first, last in zip([0, *begins], [*begins, 13], strict=True):
        alone = [tensor[:, :, first:last].detach().requires_grad_() for tensor in inputs]
        expected, carried = FORMS["parallel"](*alone[:3], carried, log_decay=alone[3])
        loss = (expected * slope[:, :, first:last]).sum() + (carried.sum() if last == 13 else 0)
        assert relative_error(output[:, :, first:last], expected) < 1e-12
        for ours, theirs in zip(gradients, torch.autograd.grad(loss, alone), strict=True):
            assert (ours[:, :, first:last] - theirs).abs().max() < 1e-12
        carried = carried if last == 13 else None
    assert relative_error(state, carried) < 1e-12
    assert not gradients[3][:, :, begins].any(), "the decay of a document's first token has nothing to fade"


def test_the_incoming_state_is_left_as_it_was():
    case = random_case(4, 6, gates="any")
    assert case.state is not None
    before = case.state.clone()
    for form in FORMS.values():
        form(*case[:4], log_decay=case.log_decay)
        assert torch.equal(case.state, before)


def test_a_step_can_overwrite_the_state():
    case = random_case(4, 1, gates="any")
    query, key, value, log_decay = (tensor[:, :, 0] for tensor in (*case[:3], case.log_decay))
    expected = gated_retention_recurrent(query, key, value, case.state, log_decay=log_decay)
    own = case.state.clone()
    output, after = recurrent_step(query, key, value, own, token_decay(log_decay, own.dtype), overwrite=True)
    assert after.data_ptr() == own.data_ptr()
    assert torch.equal(output, expected[0])
    assert torch.equal(own, expected[1])


@pytest.mark.parametrize("name", ["parallel", "recurrent", "chunkwise of 4"])
def test_the_future_reaches_nothing(name: str):
    case = random_case(5, 13, gates="any")
    before, _ = FORMS[name](*case[:4], log_decay=case.log_decay)
    for edited in range(13):
        key, value, log_decay = case.key.clone(), case.value.clone(), case.log_decay.clone()
        key[:, :, edited] += 1e6
        value[:, :, edited] -= 1e6
        log_decay[:, :, edited] -= 3
        after, _ = FORMS[name](case.query, key, value, case.state, log_decay=log_decay)
        assert torch.equal(after[:, :, :edited], before[:, :, :edited])
        assert not torch.equal(after[:, :, edited], before[:, :, edited])


@pytest.mark.parametrize("temperature", [1.0, 16.0])
def test_the_gate_is_the_root_of_a_sigmoid_and_never_one(temperature: float):
    logits = torch.linspace(-30, 8, 39, dtype=torch.float64)
    expected = torch.sigmoid(logits) ** (1 / temperature)
    assert relative_error(log_decay_gate(logits, temperature).exp(), expected) < 1e-14
    half = log_decay_gate(logits.bfloat16(), temperature)
    assert half.dtype == torch.float32
    assert (half < 0).all()
    assert relative_error(half, log_decay_gate(logits, temperature)) < 1e-6
