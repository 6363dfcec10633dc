"""Every message names the argument, the rule and what was received, with a decay of each head or of each token."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retentive.ops import (
    gated_retention_chunkwise,
    gated_retention_parallel,
    gated_retention_recurrent,
    gated_retention_reference,
    retention_chunkwise,
    retention_parallel,
    retention_recurrent,
    retention_reference,
)
from retentive.ops.gated_retention import gated_retention, log_decay_gate
from retentive.ops.retention import retention

HEADS = torch.full((2,), -0.1, dtype=torch.float64)
TOKENS = torch.full((3, 2, 7), -0.1)
FORMS: dict[str, list[Callable[..., Any]]] = {
    "retention": [retention, retention_chunkwise, retention_parallel, retention_reference],
    "gated": [gated_retention, gated_retention_chunkwise, gated_retention_parallel, gated_retention_reference],
}
DECAYS = {"retention": HEADS, "gated": TOKENS}


def inputs(operator: str, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {name: torch.randn(3, 2, 7, 4) for name in ("query", "key", "value")}
    return made | {"log_decay": DECAYS[operator]} | changes


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


EMPTY = {name: zeros(3, 2, 0, 4) for name in ("query", "key", "value")}
BAD = [
    (ValueError, {"query": zeros(3, 7, 4)}, "query must have the 4 dimensions (batch, heads, time, dim), but has the"),
    (
        ValueError,
        {"key": zeros(3, 2, 6, 4)},
        "query and key must have the same shape, but have (3, 2, 7, 4) and (3, 2, 6",
    ),
    (ValueError, {"key": zeros(3, 1, 7, 4)}, "repeat the keys of grouped heads first"),
    (
        ValueError,
        {"value": zeros(3, 4, 7, 4)},
        "key and value may differ in their last dimension only, but have (3, 2, 7",
    ),
    (
        ValueError,
        {"state": zeros(3, 2, 4, 5)},
        "state must have the shape (batch, heads, key_dim, value_dim) = (3, 2, 4, 4)",
    ),
    (
        TypeError,
        {"key": zeros(3, 2, 7, 4, dtype=torch.int64)},
        "key must be of a floating-point dtype, but is torch.int64",
    ),
    (
        TypeError,
        {"value": zeros(3, 2, 7, 4, dtype=torch.float64)},
        "query, key and value must have one dtype, but have",
    ),
    (
        TypeError,
        {"mask": zeros(3, 7)},
        "mask must be of dtype torch.bool, but is torch.float32; convert it with .bool()",
    ),
    (
        ValueError,
        {"starts": zeros(3, 8, dtype=torch.bool)},
        "starts must have the shape (batch, time) = (3, 7), but has (3, 8)",
    ),
    (ValueError, EMPTY, "every dimension must be at least 1, but query has the shape (3, 2, 0, 4)"),
]
BAD_DECAYS = [
    ("retention", ValueError, HEADS[:1], "log_decay must have the shape (heads,) = (2,), but has (1,)"),
    ("retention", ValueError, HEADS + 0.2, "at most 0 for every head (a decay of at most 1), but has 0.1"),
    ("retention", ValueError, HEADS * torch.nan, "log_decay must be at most 0 for every head"),
    ("retention", ValueError, HEADS.clone().requires_grad_(), "is a constant of the model and gets no gradient"),
    (
        "gated",
        ValueError,
        zeros(2),
        "log_decay must have the shape (batch, heads, time) = (3, 2, 7), but has (2,); expand decays that are the same "
        "for all tokens",
    ),
    ("gated", ValueError, zeros(3, 2, 7, 4), "(batch, heads, time) = (3, 2, 7), but has (3, 2, 7, 4)"),
    (
        "gated",
        TypeError,
        zeros(3, 2, 7, dtype=torch.int64),
        "log_decay must be of a floating-point dtype, but is torch",
    ),
]


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize(("kind", "changes", "message"), BAD, ids=[message[:25] for _, _, message in BAD])
def test_inputs(operator: str, kind: type[Exception], changes: dict[str, Any], message: str):
    for form in FORMS[operator]:
        with pytest.raises(kind, match=re.escape(message)):
            form(**inputs(operator, **changes))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(("operator", "kind", "log_decay", "message"), BAD_DECAYS)
def test_decays(operator: str, kind: type[Exception], log_decay: Tensor, message: str):
    for form in FORMS[operator]:
        with pytest.raises(kind, match=re.escape(message)):
            form(**inputs(operator, log_decay=log_decay))


@pytest.mark.usefixtures("without_shape_checks")
def test_one_step_has_no_time():
    for operator, form in (("retention", retention_recurrent), ("gated", gated_retention_recurrent)):
        with pytest.raises(ValueError, match=re.escape("query must have the 3 dimensions (batch, heads, dim)")):
            form(**inputs(operator))
    step = {name: torch.randn(3, 2, 4) for name in ("query", "key", "value")}
    with pytest.raises(ValueError, match=re.escape("log_decay must have the shape (batch, heads) = (3, 2), but has")):
        gated_retention_recurrent(**step, log_decay=zeros(3, 2, 1))


@pytest.mark.parametrize("operator", FORMS)
@pytest.mark.parametrize("size", [0, -3])
def test_chunk_size(operator: str, size: int):
    for form in FORMS[operator][:2]:
        with pytest.raises(ValueError, match=f"chunk_size must be a whole number of tokens, at least 1, but is {size}"):
            form(**inputs(operator), chunk_size=size)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("operator", FORMS)
def test_unknown_form(operator: str):
    known = '"auto", "parallel", "recurrent", "chunkwise" or "reference"'
    with pytest.raises(ValueError, match=f"form must be {known}, but is 'fast'"):
        FORMS[operator][0](**inputs(operator), form="fast")


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature(temperature: float):
    with pytest.raises(ValueError, match=f"temperature must be above 0, but is {temperature}"):
        log_decay_gate(torch.zeros(3), temperature)


@pytest.mark.parametrize("operator", FORMS)
def test_good_inputs_pass(operator: str):
    for form in FORMS[operator]:
        output, _ = form(**inputs(operator))
        assert output.isfinite().all()
