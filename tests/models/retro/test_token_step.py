"""A step over a token inside a chunk is the model's call."""

import pytest
import torch

from laws.families import case_name, random_tokens
from models.retro.small import CHUNK, RETNET, random_neighbours, small_backbone, small_retro
from retentive.engine.growing.context import EngineContext
from retentive.engine.lookup import ModelView
from retentive.models.retro import Retro
from retentive.models.retro.state import end_chunks_every
from retentive.state import ModelState, map_tensors, named_tensors

VARIANTS = [
    {},
    {"backbone": RETNET, "chunk_offset": 1},
    {"cross_layers": (1,), "relative_position": False, "norm": "layer_norm"},
    {"residual": "deepnorm"},
    {
        "backbone": small_backbone(window=3),
        "share_embeddings": True,
        "gated": True,
        "norm": "gated_rms_norm",
        "chunk_size": 1,
    },
]


def own(state: ModelState) -> ModelState:
    return map_tensors(state, torch.Tensor.clone)


def stepping(model: Retro, *, calls: bool = True):
    """A step over a view, in an engine's context; without ``calls`` it may not call the model."""
    view, context = ModelView(model), EngineContext()
    if not calls:
        view.model.forward = pytest.fail
    return lambda tokens, state: view.model.step(tokens, state, context)


def assert_same_tokens(model: Retro, state: ModelState, chunks: int = 3) -> int:
    """Steps and calls from one state on, neighbours of every chunk that ends given to both; how many were steps."""
    step = stepping(model, calls=False)
    mine, steps = own(state), 0
    for seed in range(chunks * model.config.chunk_size):
        tokens = random_tokens(state.batch_size, 1, seed=seed)
        ended = model.ended_chunks(tokens, state)
        found = random_neighbours(*ended.shape[:2], length=2 * CHUNK, seed=seed) if ended.shape[1] else None
        output = model(tokens, state, neighbours=found)
        if found is None:
            logits, mine = step(tokens[:, 0], mine)
            steps += 1
        else:
            again = model(tokens, mine, neighbours=found)
            logits, mine = again.logits[:, 0], again.state
        state = output.state
        torch.testing.assert_close(logits, output.logits[:, 0], rtol=0, atol=1e-12)
        assert_same_state(mine, state)
    return steps


def assert_same_state(mine: ModelState, state: ModelState) -> None:
    found, expected = named_tensors(mine), named_tensors(state)
    if "recent_real" in found.keys() ^ expected.keys():  # it may say that all are there, or not say so
        assert (found | expected)["recent_real"].all()
        found, expected = ({**names, "recent_real": torch.ones(1)} for names in (found, expected))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_it_computes_what_a_call_computes(changes: dict, rows: int):
    model = small_retro(**changes)
    size, offset = model.config.chunk_size, model.config.chunk_offset
    tokens = random_tokens(rows, 2 * CHUNK + 1 + offset)
    neighbours = random_neighbours(rows, (2 * CHUNK + 1) // size)
    steps = assert_same_tokens(model, model(tokens, neighbours=neighbours).state)
    assert steps == 3 * (size - 1)
    assert_same_tokens(model, model(tokens).state)
    assert_same_tokens(model, model(tokens[:, :1]).state)


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS[:2], ids=case_name)
def test_rows_at_different_places(changes: dict):
    model = small_retro(**changes)
    tokens = random_tokens(3, 9)
    mask = torch.arange(9) < torch.tensor([2, 9, 6])[:, None]
    chunks = model.ended_chunks(tokens, mask=mask).shape[1]
    state = model(tokens, mask=mask, neighbours=random_neighbours(3, chunks)).state
    assert len(set(state.place.tolist())) > 1
    assert_same_tokens(model, state)


@torch.no_grad()
def test_a_chunk_that_ends_without_neighbours_ends():
    model = small_retro()
    step, tokens = stepping(model), random_tokens(2, 1)
    state = model(random_tokens(2, 2 * CHUNK - 1), neighbours=random_neighbours(2, 1)).state
    logits, mine = step(tokens[:, 0], own(state))
    output = model(tokens, state)
    torch.testing.assert_close(logits, output.logits[:, 0], rtol=0, atol=1e-12)
    assert_same_state(mine, output.state)
    assert mine.neighbours[0].key.shape[2] == 0


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
@pytest.mark.parametrize("padding", [0, 3])
def test_without_neighbours_the_ends_of_chunks_are_steps_too(changes: dict, padding: int):
    model = small_retro(**changes)
    step = stepping(model, calls=False)
    mask = torch.ones(2, 2 * CHUNK + 1, dtype=torch.bool)
    mask[0, :padding] = False
    state = model(random_tokens(2, 2 * CHUNK + 1), mask=mask).state
    mine = own(state)
    for seed in range(3 * CHUNK):
        tokens = random_tokens(2, 1, seed=seed)
        logits, mine = step(tokens[:, 0], mine)
        output = model(tokens, state)
        state = output.state
        torch.testing.assert_close(logits, output.logits[:, 0], rtol=0, atol=1e-12)
        assert_same_state(mine, state)


@torch.no_grad()
def test_ends_that_are_moved_are_noticed():
    model = small_retro()
    step = stepping(model)
    state = model(random_tokens(2, 2 * CHUNK), neighbours=random_neighbours(2, 2)).state
    _, state = step(random_tokens(2, 1)[:, 0], own(state))
    moved, tokens = end_chunks_every(state, 2, CHUNK), random_tokens(2, 1, seed=1)
    logits, mine = step(tokens[:, 0], own(moved))
    output = model(tokens, moved)
    torch.testing.assert_close(logits, output.logits[:, 0], rtol=0, atol=1e-12)
    assert_same_state(mine, output.state)


@torch.no_grad()
def test_a_state_of_before_is_gone_on_from_again():
    model = small_retro()
    step, tokens = stepping(model), random_tokens(2, 1)
    state = model(random_tokens(2, 2 * CHUNK), neighbours=random_neighbours(2, 2)).state
    first, _ = step(tokens[:, 0], state)
    step(random_tokens(2, 1, seed=1)[:, 0], state)
    again, _ = step(tokens[:, 0], state)
    assert torch.equal(first, again)
