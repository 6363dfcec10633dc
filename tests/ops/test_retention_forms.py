"""All forms of retention are the direct sum: values, states and gradients, with padding, documents and cuts.

The laws hold for both kinds of decay: one of each head (retention), and one of each head and token (gated retention).
"""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.direct_sum import Case, direct_retention, random_case, relative_error
from ops.forms import CASES, FORMS, KINDS, STEPS, Form
from retentive.ops import log_decay_geometric

TOLERANCE = {"parallel": 2e-6, "chunkwise of 4": 2e-6, "recurrent": 1e-5}
EVERY = [(operator, name) for operator, forms in FORMS.items() for name in forms]


def run(form: Form, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    return form(*case[:4], **case.flags())


@pytest.mark.parametrize("operator", FORMS)
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_every_form_is_the_direct_sum(operator: str, data: st.DataObject):
    case = data.draw(CASES[operator])
    expected = direct_retention(*case)
    for name, form in FORMS[operator].items():
        for ours, theirs in zip(run(form, case), expected, strict=True):
            assert ours.shape == theirs.shape, name
            assert relative_error(ours, theirs) < 1e-12, name


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("name", TOLERANCE)
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_float32_values_and_gradients(name: str, operator: str, data: st.DataObject):
    case = data.draw(CASES[operator])
    single = {field: getattr(case, field).detach().float().requires_grad_() for field in case.learned()}
    exact = {field: tensor.detach().double().requires_grad_() for field, tensor in single.items()}
    # Added zeros: where all is padding or forgotten, a result by hand has no graph.
    zero = sum(0 * leaf.sum() for leaf in exact.values())
    expected = [tensor + zero for tensor in direct_retention(*case._replace(**exact))]
    found = run(FORMS[operator][name], case._replace(**single))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) < TOLERANCE[name]
    slopes = [torch.randn_like(tensor) for tensor in expected]
    gradients = torch.autograd.grad(expected, [*exact.values()], slopes, materialize_grads=True)
    # A decay of e^-30 is a difference of sums that float32 rounds, and so is what it leaves of a gradient.
    forgotten = 1e-9 * max(float(gradient.abs().max()) for gradient in gradients)
    for ours, theirs in zip(
        torch.autograd.grad(found, [*single.values()], [slope.float() for slope in slopes], materialize_grads=True),
        gradients,
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) < 1e-5 or float((ours.double() - theirs).abs().max()) < forgotten


@pytest.mark.parametrize("operator", FORMS)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_cut_anywhere_in_any_forms_equals_one_call(operator: str, data: st.DataObject):
    case = data.draw(CASES[operator])
    time = case.query.shape[2]
    cuts = sorted(data.draw(st.sets(st.integers(1, time), max_size=4)) | {0, time})
    outputs, state = [], case.state
    for first, last in pairwise(cuts):
        form = FORMS[operator][data.draw(st.sampled_from(list(FORMS[operator])))]
        output, state = run(form, case.between(first, last)._replace(state=state))
        outputs.append(output)
    expected = direct_retention(*case)
    assert relative_error(torch.cat(outputs, 2), expected[0]) < 1e-12
    assert relative_error(state, expected[1]) < 1e-12


@pytest.mark.parametrize("operator", FORMS)
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_one_step_at_a_time_equals_one_call(operator: str, data: st.DataObject):
    case = data.draw(CASES[operator])
    expected = direct_retention(*case[:5], None, None)
    state, outputs = case.state, []
    for time in range(case.query.shape[2]):
        step = case.between(time, time + 1)
        log_decay = step.log_decay if operator == "retention" else step.log_decay[:, :, 0]
        output, state = STEPS[operator](*(tensor[:, :, 0] for tensor in step[:3]), state, log_decay=log_decay)
        outputs.append(output)
    assert relative_error(torch.stack(outputs, 2), expected[0]) < 1e-12
    assert relative_error(state, expected[1]) < 1e-12


@pytest.mark.parametrize(("operator", "name"), EVERY)
@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_padding_may_hold_anything(operator: str, name: str, garbage: float):
    case = random_case(1, 13, mask=True, starts=True, **KINDS[operator])
    assert case.mask is not None
    padding = ~case.mask[:, None, :, None]
    clean = {field: getattr(case, field).detach().clone() for field in case.learned()}
    dirty = {
        field: tensor
        if field == "state"
        else tensor.masked_fill(padding if tensor.dim() == 4 else padding[..., 0], garbage)
        for field, tensor in clean.items()
    }
    slope = torch.randn_like(case.value)
    results = []
    for given_tensors, slopes in ((clean, slope), (dirty, slope.masked_fill(padding, garbage))):
        leaves = {field: tensor.clone().requires_grad_() for field, tensor in given_tensors.items()}
        output, state = run(FORMS[operator][name], case._replace(**leaves))
        gradients = torch.autograd.grad((output, state), [*leaves.values()], (slopes, torch.ones_like(state)))
        results.append((output, state, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    output, _, *gradients = results[1]
    for tensor in (output, *gradients[:-1]):  # the last is the state's
        columns = padding if tensor.dim() == 4 else padding[..., 0]
        assert not tensor.masked_select(columns).any(), "padding must read nothing and get no gradient"


@pytest.mark.parametrize(("operator", "name"), EVERY)
def test_documents_in_one_row_are_separate(operator: str, name: str):
    case = random_case(2, 13, batch=1, state=True, **KINDS[operator])
    begins = [5, 6, 11]
    starts = torch.zeros(1, 13, dtype=torch.bool)
    starts[0, begins] = True
    fields = [field for field in case.learned() if field != "state"]
    leaves = {field: getattr(case, field).clone().requires_grad_() for field in fields}
    output, state = run(FORMS[operator][name], case._replace(**leaves, starts=starts))
    slope = torch.randn_like(output)
    gradients = torch.autograd.grad((output * slope).sum() + state.sum(), [*leaves.values()])
    carried = case.state
    for first, last in zip([0, *begins], [*begins, 13], strict=True):
        part = case.between(first, last)
        alone = {field: getattr(part, field).detach().requires_grad_() for field in fields}
        expected, carried = run(FORMS[operator]["parallel"], part._replace(**alone, state=carried))
        loss = (expected * slope[:, :, first:last]).sum() + (carried.sum() if last == 13 else 0)
        assert relative_error(output[:, :, first:last], expected) < 1e-12
        for ours, theirs in zip(gradients, torch.autograd.grad(loss, [*alone.values()]), strict=True):
            assert (ours[:, :, first:last] - theirs).abs().max() < 1e-12
        carried = carried if last == 13 else None
    assert relative_error(state, carried) < 1e-12
    for tensor in gradients[3:]:
        assert not tensor[:, :, begins].any(), "the decay of a document's first token has nothing to fade"


def test_no_decay_given_means_the_geometric_schedule():
    case = random_case(3, 6, heads=3)
    for name, form in FORMS["retention"].items():
        ours = form(*case[:4])
        for mine, theirs in zip(ours, form(*case[:4], log_decay=log_decay_geometric(3)), strict=True):
            assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("operator", FORMS)
def test_the_incoming_state_is_left_as_it_was(operator: str):
    case = random_case(4, 6, **KINDS[operator])
    assert case.state is not None
    before = case.state.clone()
    for form in FORMS[operator].values():
        run(form, case)
        assert torch.equal(case.state, before)


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("name", ["parallel", "recurrent", "chunkwise of 4"])
def test_the_future_reaches_nothing(name: str, operator: str):
    case = random_case(5, 13, **KINDS[operator])
    before, _ = run(FORMS[operator][name], case)
    for edited in range(13):
        key, value, log_decay = case.key.clone(), case.value.clone(), case.log_decay.clone()
        key[:, :, edited] += 1e6
        value[:, :, edited] -= 1e6
        if operator == "gated":
            log_decay[:, :, edited] -= 3
        after, _ = run(FORMS[operator][name], case._replace(key=key, value=value, log_decay=log_decay))
        assert torch.equal(after[:, :, :edited], before[:, :, :edited])
        assert not torch.equal(after[:, :, edited], before[:, :, edited])
