"""Kernels compute what the definition says: outputs, states and gradients, and write all that they return.

``make test-kernels`` runs them on a CPU, by Triton's interpreter, and ``make gpu-check`` on a GPU.
"""

import math

import pytest
import torch
from torch import Tensor

from laws.families import random_tokens, small_model
from ops.direct_sum import GATES, Case, random_case, relative_error
from ops.forms import FORMS, KINDS
from ops.kernels.on_device import DEVICE, kernels, on_device
from seeds import seeded

pytestmark = pytest.mark.kernels

SIZES = {"small": (3, 5), "several blocks": (70, 33)}
"""Dimensions of keys and values; a tile has at most 64, in float64 16."""
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def results(operator: str, form: str, case: Case, dtype: torch.dtype, taken: str = "all") -> list[Tensor]:
    """Output, state, and the gradients of a sum over both, or over one of them."""
    on = on_device(case, dtype)
    output, state = FORMS[operator][form](*on[:4], **on.flags())
    random = seeded(1)
    parts = {
        name: (result * torch.randn(result.shape, generator=random, dtype=torch.float64).to(result)).sum()
        for name, result in (("output", output), ("state", state))
    }
    loss = parts["output"] + parts["state"] if taken == "all" else parts[taken]
    leaves = [getattr(on, field) for field in case.learned()]
    return [output, state, *torch.autograd.grad(loss, leaves, materialize_grads=True)]


def assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs.double()) < tolerance


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("flags", [False, True])
@pytest.mark.parametrize("time", [1, 15, 16, 17, 40])
def test_any_length_in_float64(time: int, flags: bool, operator: str, monkeypatch: pytest.MonkeyPatch):
    case = random_case(time, time, state=flags or time == 16, mask=flags, starts=flags, **KINDS[operator])
    with kernels(monkeypatch):
        found = results(operator, "chunkwise of 4", case, torch.float64)
    assert_equal(found, results(operator, "reference", case, torch.float64), 1e-12)


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_any_precision_and_several_blocks(dtype: torch.dtype, operator: str, monkeypatch: pytest.MonkeyPatch):
    key_dim, value_dim = SIZES["several blocks"]
    case = random_case(0, 70, batch=1, key_dim=key_dim, value_dim=value_dim, mask=True, starts=True, **KINDS[operator])
    rounded = case._replace(**{field: getattr(case, field).to(dtype).double() for field in ("query", "key", "value")})
    with kernels(monkeypatch):
        found = results(operator, "auto", rounded, dtype)
    assert found[0].dtype == dtype
    assert found[1].dtype == torch.promote_types(dtype, torch.float32)
    assert_equal(found, results(operator, "reference", rounded, torch.float64), TOLERANCE[dtype])


@pytest.mark.parametrize("gates", GATES)
def test_decays_of_any_strength(gates: str, monkeypatch: pytest.MonkeyPatch):
    case = random_case(0, 40, gates=gates)
    with kernels(monkeypatch):
        found = results("gated", "chunkwise of 4", case, torch.float32)
    expected = results("gated", "reference", case, torch.float64)
    assert_equal(found, expected, 2e-6)


@pytest.mark.parametrize("log_decay", [0.0, math.log(1e-6), -math.inf])
def test_heads_that_never_forget_and_heads_that_always_do(log_decay: float, monkeypatch: pytest.MonkeyPatch):
    decays = torch.tensor([log_decay, -0.1], dtype=torch.float64)
    case = random_case(0, 40, log_decay=decays)
    with kernels(monkeypatch):
        found = results("retention", "chunkwise of 4", case, torch.float64)
    near = case._replace(log_decay=decays.clamp_min(-1000))
    assert_equal(found, results("retention", "reference", near, torch.float64), 1e-12)


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("taken", ["output", "state"])
def test_gradient_of_one_result_alone(taken: str, operator: str, monkeypatch: pytest.MonkeyPatch):
    case = random_case(0, 20, **KINDS[operator])
    with kernels(monkeypatch):
        found = results(operator, "chunkwise of 4", case, torch.float64, taken)
    assert_equal(found, results(operator, "reference", case, torch.float64, taken), 1e-12)


@pytest.mark.parametrize("operator", FORMS)
def test_second_derivatives(operator: str, monkeypatch: pytest.MonkeyPatch):
    case = random_case(0, 20, batch=1, key_dim=2, value_dim=3, mask=True, starts=True, **KINDS[operator])

    def second(form: str) -> list[Tensor]:
        on = on_device(case, torch.float64)
        leaves = [getattr(on, field) for field in case.learned()]
        output, state = FORMS[operator][form](*on[:4], **on.flags())
        first = torch.autograd.grad(output.square().sum() + state.square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves))

    with kernels(monkeypatch):
        found = second("chunkwise of 4")
    assert_equal(found, second("parallel"), 1e-10)


def test_a_text_in_pieces_is_the_text(monkeypatch: pytest.MonkeyPatch):
    case = on_device(random_case(0, 45, gates="any", mask=True, starts=True), torch.float64)
    with kernels(monkeypatch), torch.no_grad():
        state, outputs = case.state, []
        for first, last in ((0, 17), (17, 33), (33, 45)):
            piece = case.between(first, last)._replace(state=state)
            output, state = FORMS["gated"]["chunkwise of 4"](*piece[:4], **piece.flags())
            outputs.append(output)
        whole = FORMS["gated"]["chunkwise of 4"](*case[:4], **case.flags())
    assert_equal([torch.cat(outputs, 2), state], list(whole), 1e-12)


def test_float16_scores_beyond_its_range_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch):
    # Every score is 64 * 48 * 48 = 147,456, beyond float16; weighed by small values the output is within it.
    query = torch.full((1, 1, 40, 64), 48.0, dtype=torch.float16, device=DEVICE)
    value = torch.full((1, 1, 40, 2), 2.0**-10, dtype=torch.float16, device=DEVICE)
    with kernels(monkeypatch):
        output, state = FORMS["retention"]["auto"](query, query, value)
    expected = FORMS["retention"]["reference"](query, query, value)
    assert relative_error(output, expected[0].double()) < 1e-3
    assert relative_error(state, expected[1].double()) < 1e-3


@pytest.mark.parametrize(("family", "changes"), [("retnet", {}), ("hybrid", {"pattern": ("gated_retention",)})])
def test_models_train_by_kernels(family: str, changes: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch):
    model, tokens = small_model(family, **changes).to(DEVICE), random_tokens(2, 21).to(DEVICE)

    def gradients() -> list[Tensor]:
        output = model(tokens[:, :-1], labels=tokens[:, 1:])
        return [output.logits, *torch.autograd.grad(output.loss, list(model.parameters()))]

    with kernels(monkeypatch):
        found = gradients()
    with kernels(monkeypatch, wanted=False):
        expected = gradients()
    assert_equal(found, expected, 1e-11)
