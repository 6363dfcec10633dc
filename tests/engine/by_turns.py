"""Texts that two engines write by turns, through files of states."""

import tempfile
from pathlib import Path

import torch

from retentive import generate, load_state, save_state
from retentive.generation import Request, RequestBatch
from retentive.models.base import DecoderModel
from retentive.state import named_tensors

PROMPTS = [[1, 2, 3], [4, 5, 6]]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]


def check_requests(model: DecoderModel, engine: str, expected: list[list[int]]) -> None:
    """Requests that come and go get what `generate` gives."""
    batch, got = RequestBatch(model, engine=engine), dict[int, list[int]]()
    for prompt, length in zip((*PROMPTS, PROMPTS[0]), (24, 10, 24), strict=True):
        got[batch.admit(Request(prompt=prompt, max_new_tokens=length))] = []
        for step in (*batch.step(), *batch.step()):
            got[step.number] += [] if step.token is None else [step.token]
    while batch.is_busy:
        for step in batch.step():
            got[step.number] += [] if step.token is None else [step.token]
    assert list(got.values()) == [expected[0], expected[1][:10], expected[0]]


def check_by_turns(model: DecoderModel, engine: str, tolerance: float = 1e-4) -> None:
    """What an engine writes alone, and by turns with eager steps, is what those write alone."""
    expected = generate(model, PROMPTS, max_new_tokens=24)
    check_requests(model, engine, [row.tolist() for row in expected.tokens])
    assert_same(generate(model, PROMPTS, max_new_tokens=24, engine=engine).tokens, expected.tokens)
    parts, state, result = [], None, expected
    with tempfile.TemporaryDirectory() as folder:
        for each in ("eager", engine) * 2:
            prompts = PROMPTS if state is None else None
            result = generate(model, prompts, max_new_tokens=6, state=state, engine=each)
            parts.append(torch.stack(result.tokens))
            save_state(result.state, Path(folder) / "state", model)
            state = load_state(Path(folder) / "state", model)
    assert_same(list(torch.cat(parts, 1)), expected.tokens)
    for name, tensor in named_tensors(expected.state).items():
        torch.testing.assert_close(named_tensors(result.state)[name], tensor, rtol=tolerance, atol=tolerance)
