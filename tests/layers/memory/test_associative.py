"""What is stored under a key is found by it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retentive.layers.memory.associative import AssociativeMemory, AssociativeMemoryConfig, AssociativeState


@pytest.fixture
def memory() -> AssociativeMemory:
    torch.manual_seed(0)
    made = AssociativeMemory(AssociativeMemoryConfig(hidden_size=8, key_dim=8, features=3)).double()
    with torch.no_grad():
        # One projection for asking and storing, values as they are, written in full.
        made.query_proj.weight.copy_(made.key_proj.weight)
        made.value_proj.weight.copy_(torch.eye(8))
        made.strength_proj.weight.zero_()
        made.strength_proj.bias.fill_(50.0)
    return made


def empty(memory: AssociativeMemory, batch: int = 1) -> AssociativeState:
    return memory.initial_state(batch, None, torch.float64)


def random_slots(count: int, seed: int) -> Tensor:
    return torch.randn(1, count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_empty_memory_answers_nothing(memory: AssociativeMemory):
    assert torch.equal(memory(random_slots(3, 0), empty(memory)), torch.zeros(1, 3, 8, dtype=torch.float64))


def test_what_was_stored_is_recalled(memory: AssociativeMemory):
    slot = random_slots(1, 1)
    state = memory.write(slot, empty(memory))
    torch.testing.assert_close(memory(slot, state), slot, rtol=1e-3, atol=1e-3)


def test_storing_again_under_a_key_replaces_and_does_not_add(memory: AssociativeMemory):
    with torch.no_grad():
        # Keys read the first half of the channels, values the second.
        memory.key_proj.weight[:, 4:] = 0
        memory.query_proj.weight[:, 4:] = 0
        memory.value_proj.weight.copy_(torch.diag(torch.tensor([0.0] * 4 + [1.0] * 4)))
    first, second = random_slots(1, 2), random_slots(1, 3)
    second[..., :4] = first[..., :4]
    state = memory.write(second, memory.write(first, empty(memory)))
    torch.testing.assert_close(memory(first, state)[..., 4:], second[..., 4:], rtol=1e-3, atol=1e-3)


def test_the_second_projection_is_the_products_of_neighbours(memory: AssociativeMemory):
    # nu = 1, 2, 3 of eq. 37 in arXiv:2102.11174, by hand.
    key = torch.tensor([[[2.0, -3.0]]], dtype=torch.float64)
    two = AssociativeMemory(AssociativeMemoryConfig(hidden_size=8, key_dim=2, features=2)).double()
    features = two._features(key, empty(two))[0, 0]
    rectified = torch.tensor([2.0, 0.0, 0.0, 3.0], dtype=torch.float64)
    expected = [rectified[i] * rectified[(i - shift) % 4] for shift in (1, 2) for i in range(4)]
    assert features.tolist() == [float(value) for value in expected]


def test_all_parameters_get_a_gradient(memory: AssociativeMemory):
    with torch.no_grad():
        memory.strength_proj.bias.zero_()
    state = memory.write(random_slots(3, 4), memory.write(random_slots(3, 5), empty(memory)))
    memory(random_slots(3, 6), state).pow(2).sum().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_state_is_float32_whatever_the_models_dtype():
    memory = AssociativeMemory(AssociativeMemoryConfig(hidden_size=8, key_dim=4)).bfloat16()
    slots = torch.randn(2, 3, 8, dtype=torch.bfloat16)
    state = memory.write(slots, memory.initial_state(2, None, torch.bfloat16))
    assert state.matrix.dtype == state.normaliser.dtype == torch.float32
    assert memory(slots, state).dtype == torch.bfloat16


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.0, 1.0]), key_dim=st.integers(2, 6), data=st.data())
@settings(deadline=None, max_examples=40)
def test_what_is_recalled_is_about_as_large_as_what_was_stored(
    seed: int, scale: float, key_dim: int, data: st.DataObject
):
    torch.manual_seed(seed)
    features = data.draw(st.integers(1, 3))
    memory = AssociativeMemory(AssociativeMemoryConfig(hidden_size=8, key_dim=key_dim, features=features)).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    # Some slots come again and again, alone or many at once, others are new: keys that share some of their features.
    known, state, largest = torch.randn(1, 5, 8, dtype=torch.float64), empty(memory), 0.0
    for count in data.draw(st.lists(st.sampled_from([1, 2, 6]), min_size=30, max_size=30)):
        slots = known[:, torch.randint(5, (count,))] + torch.randint(2, ()) * torch.randn(
            1, count, 8, dtype=torch.float64
        )
        state = memory.write(slots, state)
        largest = max(largest, memory.value_proj(slots).abs().max().item())
    asked = torch.cat((known, torch.randn(1, 20, 8, dtype=torch.float64)), 1)
    assert memory(asked, state).abs().max() < 10 * largest


def test_a_feature_that_is_new_in_a_key_is_counted(memory: AssociativeMemory):
    # The paper's count looks at keys as wholes: the second one is counted already, by its first feature alone.
    often, new = torch.zeros(1, 1, 8, dtype=torch.float64), torch.zeros(1, 1, 8, dtype=torch.float64)
    with torch.no_grad():
        memory.key_proj.weight.copy_(torch.eye(8))
    often[..., :2], new[..., :3] = torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0, 1.0])
    state = memory.write(new, memory.write(often, empty(memory)))
    written = state.matrix.abs().amax(-1) > 0
    assert (state.normaliser[written] >= 1).all()
    assert (state.normaliser[~written] == 0).all()


def test_the_published_normaliser_is_equation_5_over_features_of_length_one(memory: AssociativeMemory):
    """Written out once more, slot by slot, from the paper (arXiv:2407.04841) and the authors' code."""
    published = AssociativeMemory(AssociativeMemoryConfig(hidden_size=8, key_dim=8, normaliser="published")).double()
    published.load_state_dict(memory.state_dict())
    with torch.no_grad():
        published.strength_proj.bias.fill_(0.3)
    state = empty(published)
    matrix, normaliser = torch.zeros(48, 8, dtype=torch.float64), torch.zeros(48, dtype=torch.float64)

    def features(projected: Tensor) -> Tensor:
        both = torch.cat((projected, -projected)).relu()
        products = torch.cat([both * both.roll(shift) for shift in (1, 2, 3)])
        return products / products.norm()

    for seed in range(4):
        slots = random_slots(3, seed)
        state = published.write(slots, state)
        old_matrix, old_normaliser = matrix.clone(), normaliser.clone()
        for slot in slots[0]:
            phi = features(published.key_proj(slot))
            known = phi @ old_matrix / (phi @ old_normaliser + 1e-5)
            strength = torch.sigmoid(published.strength_proj(slot))
            matrix = matrix + torch.outer(phi, strength * (published.value_proj(slot) - known))
            normaliser = normaliser + (1 - phi @ old_normaliser / phi.dot(phi)).clamp(0, 1) * phi
        torch.testing.assert_close(state.matrix[0], matrix, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.normaliser[0], normaliser, rtol=0, atol=1e-12)
        asked = random_slots(1, 10 + seed)
        phi = features(published.query_proj(asked[0, 0]))
        torch.testing.assert_close(published(asked, state)[0, 0], phi @ matrix / (phi @ normaliser + 1e-5))
