"""Every message names the argument, the rule and what was received."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retentive.ops import retention_chunkwise, retention_parallel, retention_recurrent, retention_reference
from retentive.ops.retention import retention

FORMS: list[Callable[..., Any]] = [retention, retention_chunkwise, retention_parallel, retention_reference]
HEADS = torch.full((2,), -0.1, dtype=torch.float64)


def inputs(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {name: torch.randn(3, 2, 7, 4) for name in ("query", "key", "value")}
    return made | changes


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


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
    (ValueError, {"log_decay": HEADS[:1]}, "log_decay must have the shape (heads,) = (2,), but has (1,)"),
    (
        ValueError,
        {"log_decay": HEADS + 0.2},
        "log_decay must be at most 0 for every head (a decay of at most 1), but has 0.1",
    ),
    (ValueError, {"log_decay": HEADS * torch.nan}, "log_decay must be at most 0 for every head"),
    (
        ValueError,
        {"log_decay": HEADS.clone().requires_grad_()},
        "log_decay is a constant of the model and gets no gradient",
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
    (
        ValueError,
        {name: zeros(3, 2, 0, 4) for name in ("query", "key", "value")},
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
        retention_recurrent(**inputs())


@pytest.mark.parametrize("size", [0, -3])
def test_chunk_size(size: int):
    for form in (retention, retention_chunkwise):
        with pytest.raises(ValueError, match=f"chunk_size must be a whole number of tokens, at least 1, but is {size}"):
            form(**inputs(), chunk_size=size)


@pytest.mark.usefixtures("without_shape_checks")
def test_unknown_form():
    with pytest.raises(
        ValueError, match='form must be "auto", "parallel", "recurrent", "chunkwise" or "reference", but is \'fast\''
    ):
        retention(**inputs(), form="fast")


def test_good_inputs_pass():
    for form in FORMS:
        output, _ = form(**inputs())
        assert output.isfinite().all()
