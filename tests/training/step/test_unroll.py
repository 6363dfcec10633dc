"""Truncated back-propagation: exact inside its reach, exactly zero beyond, and the memory goes on."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.families import small_model
from retentive.data.batch import Batch
from retentive.state import named_tensors
from retentive.training.processes.processes import alone
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.learner import Learner
from retentive.training.step.pieces import TextPiece
from retentive.training.step.unroll import unrolled
from retentive.training.window import Window, place

CARRYING: list[tuple[str, dict[str, Any]]] = [
    ("retnet", {}),
    ("transformer", {"window": 7}),
    ("rmt", {}),
]
TIME = 5


def batch(first: int, *, labelled: bool) -> Batch:
    """Two rows of tokens ``first`` to ``first + 4``, each token once in a row."""
    tokens = torch.stack((torch.arange(first, first + TIME), torch.arange(first, first + TIME).flip(0)))
    labels = (tokens + 1) if labelled else torch.full_like(tokens, -100)
    return Batch(tokens=tokens, labels=labels, starts=torch.zeros_like(tokens, dtype=torch.bool))


def embedding_gradients(model: Any, first: int) -> torch.Tensor:
    """Gradients of the embeddings of the tokens of one window."""
    return model.decoder.embedding.tokens.weight.grad[first : first + TIME]


def learner_of(model: Any) -> Learner:
    """Carries the state from step to step, and learns next to nothing."""
    return Learner(
        model,
        optimizer=OptimizerConfig(learning_rate=1e-30, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_steps=0),
        decay_steps=10,
        seed=0,
        carries_state=True,
        processes=alone(),
    )


@pytest.mark.parametrize(("family", "changes"), CARRYING)
def test_gradients_end_where_the_step_begins(family: str, changes: dict[str, Any]):
    model = small_model(family, **changes)
    learner = learner_of(model)
    learner.step(0, [[batch(0, labelled=False)]])
    assert not any(tensor.requires_grad for tensor in _tensors(learner.states[0]))
    learner.step(1, [[batch(5, labelled=False), batch(10, labelled=True)]])
    assert (embedding_gradients(model, 0) == 0).all()
    assert (embedding_gradients(model, 5) != 0).any(1).any()
    assert (embedding_gradients(model, 10) != 0).any(1).all()
    assert not any(tensor.requires_grad for tensor in _tensors(learner.states[0]))


@pytest.mark.parametrize(("family", "changes"), CARRYING)
def test_memory_reaches_beyond_the_step(family: str, changes: dict[str, Any]):
    learner = learner_of(small_model(family, **changes))
    forgetful = learner.step(0, [[batch(10, labelled=True)]]).loss
    learner.states = []
    learner.step(1, [[batch(0, labelled=False)]])
    assert abs(learner.step(2, [[batch(10, labelled=True)]]).loss - forgetful) > 1e-4


@given(depth=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_windows_in_one_graph_are_one_long_window(depth: int, seed: int):
    model = small_model("retnet")
    tokens = torch.randint(0, 23, (2, depth * 6 + 1), generator=torch.Generator().manual_seed(seed))
    starts = torch.rand(2, depth * 6, generator=torch.Generator().manual_seed(seed)) < 0.1
    whole = model(tokens[:, :-1], labels=tokens[:, 1:].contiguous(), starts=starts).loss
    expected = torch.autograd.grad(whole, list(model.parameters()))
    windows = [
        Window(
            tokens=tokens[:, begin : begin + 6],
            labels=tokens[:, begin + 1 : begin + 7].contiguous(),
            starts=starts[:, begin : begin + 6],
            num_labels=12,
        )
        for begin in range(0, depth * 6, 6)
    ]
    pieces = [TextPiece(model=model, window=window, total_labels=12 * depth) for window in windows]
    loss, _ = unrolled(pieces, None)
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("columns", "carries_state", "keeps_starts", "passed"),
    [
        ((), True, False, False),
        ((), True, True, True),
        ((0,), True, False, True),
        ((0,), False, False, False),
        ((0, 3), False, False, True),
    ],
)
def test_starts_are_passed_where_they_matter(
    columns: tuple[int, ...], carries_state: bool, keeps_starts: bool, passed: bool
):
    starts = torch.zeros(2, 5, dtype=torch.bool)
    starts[1, list(columns)] = True
    labels = torch.tensor([[1, 2, 3, -100, -100], [-100, 1, 1, 1, 1]])
    given = Batch(tokens=torch.zeros(2, 5, dtype=torch.long), labels=labels, starts=starts)
    found = place(given, torch.device("cpu"), carries_state=carries_state, keeps_starts=keeps_starts)
    assert (found.starts is not None) == passed
    assert found.num_labels == 7


def _tensors(state: Any) -> list[torch.Tensor]:
    return list(named_tensors(state).values())
