"""Every message names the argument, the rule and what was received."""

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
)
from retentive.ops.gated_retention import gated_retention, log_decay_gate

FORMS: list[Callable[..., Any]] = [
    gated_retention,
    gated_retention_chunkwise,
    gated_retention_parallel,
    gated_retention_reference,
]


def inputs(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {name: torch.randn(3, 2, 7, 4) for name in ("query", "key", "value")}
    return made | {"log_decay": torch.full((3, 2, 7), -0.1)} | changes


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


BAD = [
    (ValueError, {"query": zeros(3, 7, 4)}, "query must have the 4 dimensions (batch, heads, time, dim), but has the"),
    (ValueError, {"key": zeros(3, 1, 7, 4)}, "repeat the keys of grouped heads first"),
    (ValueError, {"state": zeros(3, 2, 4, 5)}, "state must have the shape (batch, heads, key_dim, value_dim) = (3, 2"),
    (
        ValueError,
        {"log_decay": zeros(2)},
        "log_decay must have the shape (batch, heads, time) = (3, 2, 7), but has (2,); expand decays that are "
        "the same for all tokens",
    ),
    (ValueError, {"log_decay": zeros(3, 2, 7, 4)}, "(batch, heads, time) = (3, 2, 7), but has (3, 2, 7, 4)"),
    (
        TypeError,
        {"log_decay": zeros(3, 2, 7, dtype=torch.int64)},
        "log_decay must be of a floating-point dtype, but is torch.int64",
    ),
    (
        TypeError,
        {"value": zeros(3, 2, 7, 4, dtype=torch.float64)},
        "query, key and value must have one dtype, but have",
    ),
    (
        TypeError,
        {"mask": zeros(3, 7)},
        "mask must be of dtype torch.bool, but is torch.float32; convert",
    ),
    (
        ValueError,
        {"starts": zeros(3, 8, dtype=torch.bool)},
        "starts must have the shape (batch, time) = (3, 7), but has",
    ),
    (
        ValueError,
        {name: zeros(3, 2, 0, 4) for name in ("query", "key", "value")} | {"log_decay": zeros(3, 2, 0)},
        "every dimension must be at least 1, but query has the shape (3, 2, 0, 4)",
    ),
]


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "changes", "message"), BAD, ids=[message[:25] for _, _, message in BAD])
def test_message(form: Callable[..., Any], kind: type[Exception], changes: dict[str, Any], message: str):
    with pytest.raises(kind, match=re.escape(message)):
        form(**inputs(**changes))


@pytest.mark.usefixtures("without_shape_checks")
def test_one_step_has_no_time():
    with pytest.raises(ValueError, match=re.escape("query must have the 3 dimensions (batch, heads, dim), but has")):
        gated_retention_recurrent(**inputs())
    step = {name: torch.randn(3, 2, 4) for name in ("query", "key", "value")}
    with pytest.raises(ValueError, match=re.escape("log_decay must have the shape (batch, heads) = (3, 2), but has")):
        gated_retention_recurrent(**step, log_decay=zeros(3, 2, 1))


@pytest.mark.parametrize("size", [0, -3])
def test_chunk_size(size: int):
    for form in (gated_retention, gated_retention_chunkwise):
        with pytest.raises(ValueError, match=f"chunk_size must be a whole number of tokens, at least 1, but is {size}"):
            form(**inputs(), chunk_size=size)


@pytest.mark.usefixtures("without_shape_checks")
def test_unknown_form():
    with pytest.raises(
        ValueError, match='form must be "auto", "parallel", "recurrent", "chunkwise" or "reference", but is \'fast\''
    ):
        gated_retention(**inputs(), form="fast")


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature(temperature: float):
    with pytest.raises(ValueError, match=f"temperature must be above 0, but is {temperature}"):
        log_decay_gate(torch.zeros(3), temperature)


def test_good_inputs_pass():
    for form in FORMS:
        output, _ = form(**inputs())
        assert output.isfinite().all()
