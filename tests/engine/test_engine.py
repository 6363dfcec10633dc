"""Rows come and go between steps, and each gets what it would get alone."""

import pytest
import torch

from laws.decoding_by_hand import full_forward
from laws.families import case_name, cases, random_tokens, small_model
from retentive.engine import Engine, RowLimits
from retentive.engine.eager import EagerSteps
from retentive.generation import Sampling, generate
from retentive.generation.decoding import RowSampler
from retentive.models.base import DecoderModel
from retentive.state import ModelState, named_tensors

GREEDY = Sampling()


def add(engine: Engine, prompt: list[int], sampling: Sampling = GREEDY, count: int = 50, stop: tuple[int, ...] = ()):
    limits = RowLimits(max_new_tokens=count, stop_tokens=frozenset(stop))
    (slot,) = engine.add(torch.tensor([prompt]), None, None, RowSampler(sampling), [limits])
    return slot


def run(engine: Engine, said: dict[int, list[int]], steps: int) -> None:
    for _ in range(steps):
        step = engine.step()
        for slot, token in zip(step.slots, step.tokens.tolist(), strict=True):
            said.setdefault(slot, []).append(token)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_rows_that_come_and_go_get_what_they_get_alone(family: str, changes: dict):
    model, engine, said = small_model(family, **changes), None, {}
    prompts = random_tokens(3, 7).tolist()
    drawn = Sampling(temperature=1.0, seed=3)
    engine = Engine(model)
    first = add(engine, prompts[0])
    run(engine, said, 3)
    second = add(engine, prompts[1][:4], drawn)
    run(engine, said, 2)
    engine.remove(first)
    third = add(engine, prompts[2], count=4)
    run(engine, said, 4)
    assert engine.slots == (second,)
    with torch.no_grad():
        assert said[first] == full_forward(model, prompts[0], 5, GREEDY)
        assert said[second] == full_forward(model, prompts[1][:4], 6, drawn)
        assert said[third] == full_forward(model, prompts[2], 4, GREEDY)


def small() -> DecoderModel:
    return small_model("hybrid")


def test_a_state_is_a_value_that_no_step_changes():
    engine, said = Engine(small()), {}
    slot = add(engine, [1, 2, 3])
    run(engine, said, 3)
    state = engine.state(slot)
    before = {name: tensor.clone() for name, tensor in named_tensors(state).items()}
    run(engine, said, 4)
    for name, tensor in named_tensors(state).items():
        assert torch.equal(tensor, before[name]), name
        assert not tensor.is_inference()
    again = generate(small(), state.unread[:, None], state=state.model, max_new_tokens=4)
    assert again.tokens[0].tolist() == said[slot][3:]


def test_each_row_has_its_own_end():
    engine = Engine(small())
    alone = generate(small(), [1, 2, 3], max_new_tokens=6).tokens[0].tolist()
    stopping, long, short = add(engine, [1, 2, 3], stop=(alone[1],)), add(engine, [4, 5]), add(engine, [6], count=2)
    engine.step()
    step = engine.step()
    assert set(step.ended) == {stopping, short}
    assert step.stopped == (stopping,)
    assert engine.slots == (long,)
    assert engine.state(stopping).unread.tolist() == [alone[1]]
    engine.remove(stopping)
    with pytest.raises(KeyError, match=f"slot {stopping} is not of a row of this engine; its rows are {long}"):
        engine.state(stopping)


def test_a_row_that_has_just_come_has_no_state_and_can_leave():
    engine, said = Engine(small()), {}
    old = add(engine, [1, 2])
    run(engine, said, 1)
    new = add(engine, [3, 4])
    with pytest.raises(ValueError, match=f"the row in slot {new} has no state before its first token; call step first"):
        engine.state(new)
    assert engine.state(old).unread.tolist() == said[old]
    engine.remove(new)
    run(engine, said, 2)
    assert engine.slots == (old,)
    assert said[old] == generate(small(), [1, 2], max_new_tokens=3).tokens[0].tolist()


def test_without_rows_there_is_no_step():
    with pytest.raises(ValueError, match="there must be a row to step, but all have ended; call add first"):
        Engine(small()).step()


class CountingSteps(EagerSteps):
    """Steps that count how often an ordinary state was asked of them, which copies all rows in other engines."""

    asked = 0

    def value(self, state: ModelState) -> ModelState:
        self.asked += 1
        return super().value(state)


def test_rows_that_end_together_cost_one_copy_of_the_state():
    model = small()
    engine = Engine(model)
    engine._steps = steps = CountingSteps(model)
    limits = [RowLimits(max_new_tokens=2)] * 3
    engine.add(random_tokens(3, 4), None, None, RowSampler(GREEDY), limits)
    engine.step()
    assert len(engine.step().ended) == 3
    assert steps.asked == 1
