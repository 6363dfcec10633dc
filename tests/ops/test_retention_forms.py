"""All forms of retention are the direct sum: values, states and gradients, with padding, documents and cuts."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.direct_sum import Case, direct_retention, random_case, relative_error
from retentive.ops import log_decay_geometric, log_decay_linspace, retention_recurrent, retention_reference
from retentive.ops.retention import retention

Result = tuple[Tensor, Tensor]
FORMS: dict[str, Callable[..., Result]] = {
    "parallel": lambda *inputs, **flags: retention(*inputs, form="parallel", **flags),
    "recurrent": lambda *inputs, **flags: retention(*inputs, form="recurrent", **flags),
    "chunkwise of 4": lambda *inputs, **flags: retention(*inputs, form="chunkwise", chunk_size=4, **flags),
    "chunkwise of 1": lambda *inputs, **flags: retention(*inputs, form="chunkwise", chunk_size=1, **flags),
    "auto": retention,
    "reference": retention_reference,
}
TOLERANCE = {"parallel": 2e-6, "chunkwise of 4": 2e-6, "recurrent": 1e-5}
DECAYS = {
    "geometric": log_decay_geometric(2),
    "linspace": log_decay_linspace(2),
    "none and strong": torch.tensor([0.0, math.log(1e-6)], dtype=torch.float64),
    "half": torch.tensor([math.log(0.5), math.log(0.9)], dtype=torch.float64),
}

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
    log_decay=st.sampled_from(list(DECAYS.values())),
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
    exact = [tensor.clone().requires_grad_() for tensor in case[:4] if tensor is not None]
    single = [tensor.detach().float().requires_grad_() for tensor in exact]
    expected = direct_retention(*exact, *([None] * (4 - len(exact))), *case[4:])
    # Added zeros: where all is padding or forgotten, a result by hand has no graph.
    expected = [tensor + sum(0 * leaf.sum() for leaf in exact) for tensor in expected]
    found = FORMS[name](*single, **case.flags())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) < TOLERANCE[name]
    slopes = [torch.randn_like(tensor) for tensor in expected]
    for ours, theirs in zip(
        torch.autograd.grad(found, single, [slope.float() for slope in slopes], materialize_grads=True),
        torch.autograd.grad(expected, exact, slopes, materialize_grads=True),
        strict=True,
    ):
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
        output, state = form(*part, state, log_decay=case.log_decay, mask=mask, starts=starts)
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
        output, state = retention_recurrent(*step, state, log_decay=case.log_decay)
        outputs.append(output)
    assert relative_error(torch.stack(outputs, 2), expected[0]) < 1e-12
    assert relative_error(state, expected[1]) < 1e-12


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_padding_may_hold_anything(name: str, garbage: float):
    case = random_case(1, 13, mask=True, starts=True)
    assert case.mask is not None
    padding = ~case.mask[:, None, :, None]
    clean = [tensor.detach().clone().requires_grad_() for tensor in case[:4]]
    dirty = [tensor.detach().masked_fill(padding, garbage).requires_grad_() for tensor in case[:3]]
    dirty.append(case.state.detach().clone().requires_grad_())
    slope = torch.randn_like(case.value)
    results = []
    for inputs, slopes in ((clean, slope), (dirty, slope.masked_fill(padding, garbage))):
        output, state = FORMS[name](*inputs, **case.flags())
        gradients = torch.autograd.grad((output, state), inputs, (slopes, torch.ones_like(state)))
        results.append((output, state, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    output, _, *gradients = results[1]
    for tensor in (output, *gradients[:3]):
        assert not tensor.masked_select(padding).any(), "padding must read nothing and get no gradient"


@pytest.mark.parametrize("name", FORMS)
def test_documents_in_one_row_are_separate(name: str):
    case = random_case(2, 13, batch=1, state=True)
    begins = [5, 6, 11]
    starts = torch.zeros(1, 13, dtype=torch.bool)
    starts[0, begins] = True
    inputs = [tensor.clone().requires_grad_() for tensor in case[:3]]
    output, state = FORMS[name](*inputs, case.state, log_decay=case.log_decay, starts=starts)
    slope = torch.randn_like(output)
    gradients = torch.autograd.grad((output * slope).sum() + state.sum(), inputs)
    carried = case.state
    for first, last in zip([0, *begins], [*begins, 13], strict=True):
        alone = [tensor[:, :, first:last].detach().requires_grad_() for tensor in case[:3]]
        expected, carried = FORMS["parallel"](*alone, carried, log_decay=case.log_decay)
        loss = (expected * slope[:, :, first:last]).sum() + (carried.sum() if last == 13 else 0)
        assert relative_error(output[:, :, first:last], expected) < 1e-12
        for ours, theirs in zip(gradients, torch.autograd.grad(loss, alone), strict=True):
            assert relative_error(ours[:, :, first:last], theirs) < 1e-12
        carried = carried if last == 13 else None
    assert relative_error(state, carried) < 1e-12


def test_no_decay_given_means_the_geometric_schedule():
    case = random_case(3, 6, heads=3)
    for name, form in FORMS.items():
        ours = form(*case[:4])
        for mine, theirs in zip(ours, form(*case[:4], log_decay=log_decay_geometric(3)), strict=True):
            assert torch.equal(mine, theirs), name


def test_the_incoming_state_is_left_as_it_was():
    case = random_case(4, 6)
    assert case.state is not None
    before = case.state.clone()
    for form in FORMS.values():
        form(*case[:4], log_decay=case.log_decay)
        assert torch.equal(case.state, before)


@pytest.mark.parametrize("name", ["parallel", "recurrent", "chunkwise of 4"])
def test_the_future_reaches_nothing(name: str):
    case = random_case(5, 13)
    before, _ = FORMS[name](*case[:4], log_decay=case.log_decay)
    for edited in range(13):
        key, value = case.key.clone(), case.value.clone()
        key[:, :, edited] += 1e6
        value[:, :, edited] -= 1e6
        after, _ = FORMS[name](case.query, key, value, case.state, log_decay=case.log_decay)
        assert torch.equal(after[:, :, :edited], before[:, :, :edited])
        assert not torch.equal(after[:, :, edited], before[:, :, edited])
