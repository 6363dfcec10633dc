"""What the API answers is what its OpenAPI says."""

import importlib
import inspect
import pkgutil
from typing import get_args

import pytest
from pydantic import ValidationError

from retentive.serving import wire
from retentive.serving.wire.chat import ChatRequest
from retentive.serving.wire.common import Asked, ErrorFields, Wire
from retentive.serving.wire.completions import CompletionRequest
from retentive.serving.wire.responses import ResponseRequest
from retentive.serving.wire.states import DetokenizeRequest, SearchRequest, TokenizeRequest
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


BAD = 2500
"""Mistakes in one request."""
ASKED = [CompletionRequest, ChatRequest, ResponseRequest, TokenizeRequest, DetokenizeRequest, SearchRequest]


@pytest.mark.parametrize("kind", ASKED, ids=lambda kind: kind.__name__)
def test_a_request_of_many_mistakes_has_few_errors(kind: type[Asked]) -> None:
    many: list[object] = [[None] * BAD, [{}] * BAD, [[-1] * BAD] * 2, [{"role": "user", "content": [{}] * BAD}] * 2]
    many += [{str(number): None for number in range(BAD)}, [{str(number): 1 for number in range(BAD)}] * 2]
    wrong: list[object] = [{name: value} for name in kind.model_fields for value in many]
    wrong += [many[-2], {f"x{number}": 1 for number in range(1024)}]
    for values in wrong:
        with pytest.raises(ValidationError) as caught:
            kind.model_validate(values)
        assert caught.value.error_count() < 1200, str(values)[:60]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
def test_streams_are_documented(served: Running, path: str) -> None:
    described = call(served, "GET", "/openapi.json").json["paths"][path]["post"]["responses"]["200"]["content"]
    assert set(described) == {"application/json", "text/event-stream"}


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/v1/models/small", "/v1/states/none", "/none"])
def test_head_is_get_without_its_body(served: Running, path: str) -> None:
    whole, head = call(served, "GET", path), call(served, "HEAD", path)
    assert (head.status, head.content) == (whole.status, b"")
    for name in ("content-length", "content-type"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_an_answer_without_what_may_be_null_is_found_again(served: Running, field: str) -> None:
    made = call(served, "POST", "/v1/responses", {"model": "small", "input": "Hi", "max_output_tokens": 2, field: None})
    assert made.status == 200
    again = call(served, "GET", f"/v1/responses/{made.json['id']}")
    assert (again.status, again.json["output"]) == (200, made.json["output"])
    assert call(served, "DELETE", f"/v1/responses/{made.json['id']}").status == 200
