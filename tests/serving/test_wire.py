"""What the API answers is what its OpenAPI says."""

import importlib
import inspect
import pkgutil
from typing import get_args

import pytest

from retentive.serving import wire
from retentive.serving.wire.common import Asked, ErrorFields, Wire
from serving.http import call
from serving.serving import Running


def answers() -> list[type[Wire]]:
    """All but errors, whose nulls are sent."""
    modules = [
        importlib.import_module(f"{wire.__name__}.{found.name}") for found in pkgutil.iter_modules(wire.__path__)
    ]
    kinds = {kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)}
    return sorted(
        (kind for kind in kinds if issubclass(kind, Wire) and not issubclass(kind, (Asked, ErrorFields))),
        key=lambda kind: kind.__name__,
    )


@pytest.mark.parametrize("kind", answers(), ids=lambda kind: kind.__name__)
def test_what_may_be_left_out_of_an_answer_is_not_required(kind: type[Wire]) -> None:
    for name, field in kind.model_fields.items():
        if type(None) in get_args(field.annotation):
            assert not field.is_required(), name


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
def test_streams_are_documented(served: Running, path: str) -> None:
    described = call(served, "GET", "/openapi.json").json["paths"][path]["post"]["responses"]["200"]["content"]
    assert set(described) == {"application/json", "text/event-stream"}


@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_an_answer_without_what_may_be_null_is_found_again(served: Running, field: str) -> None:
    made = call(served, "POST", "/v1/responses", {"model": "small", "input": "Hi", "max_output_tokens": 2, field: None})
    assert made.status == 200
    again = call(served, "GET", f"/v1/responses/{made.json['id']}")
    assert (again.status, again.json["output"]) == (200, made.json["output"])
    assert call(served, "DELETE", f"/v1/responses/{made.json['id']}").status == 200
