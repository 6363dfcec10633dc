"""Every option is alive: against a config that differs in it alone, results or gradients change."""

import pytest
import torch
from torch import Tensor

from laws.families import case_name, random_tokens
from models.rmt.small import small_backbone, small_config
from retentive.models.rmt import RecurrentMemoryTransformer

TOGGLES = [
    ({}, {"segment_length": 6}),
    ({}, {"num_memory_tokens": 3}),
    ({}, {"num_memory_tokens": 0}),
    ({}, {"bidirectional": True}),
    ({}, {"causal_memory": True}),
    ({}, {"read_first": False}),
    ({}, {"write_start": "learned"}),
    ({}, {"write_gradient": False}),
    ({}, {"memory_code": "sign"}),
    ({"memory_code": "sign"}, {"memory_flips": 0.2}),
    ({}, {"memory_noise": 0.1}),
    ({}, {"xl_length": 3}),
    ({"xl_length": 3}, {"xl_length": 2}),
    ({"xl_length": 3}, {"xl_gradient": "states"}),
    ({"xl_length": 3}, {"xl_gradient": "none"}),
    ({"xl_length": 3}, {"xl_layer_above": True}),
    ({"xl_length": 3, "xl_layer_above": True}, {"xl_gradient": "states"}),
    ({"bidirectional": True}, {"xl_length": 3}),
    ({}, {"token_shift": True}),
    ({"backbone": small_backbone(positions="none")}, {"token_shift": True}),
    ({"backbone": small_backbone(positions="none")}, {"backbone": small_backbone()}),
    (
        {"backbone": small_backbone(positions="none")},
        {"backbone": small_backbone(positions="learned", max_positions=5)},
    ),
    ({}, {"embedding_gradient": 0.1}),
    ({}, {"embedding_gradient": 0.0}),
    ({}, {"backbone": small_backbone(num_kv_heads=2)}),
    ({}, {"memory": "associative", "associative_dim": 4}),
    ({"memory": "associative", "associative_dim": 4}, {"associative_dim": 5}),
    ({"memory": "associative", "associative_dim": 4}, {"associative_features": 2}),
    ({"memory": "associative", "associative_dim": 4}, {"causal_memory": True}),
    ({"memory": "associative", "associative_dim": 4}, {"associative_normaliser": "published"}),
]


def behaviour(changes: dict) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(small_config(**changes)).double().train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    torch.manual_seed(2)
    output = model(random_tokens(2, 19), labels=random_tokens(2, 19, seed=1))
    output.loss.backward()
    return [output.logits, *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize(("context", "change"), TOGGLES, ids=case_name)
def test_an_option_changes_something_by_itself(context: dict, change: dict):
    first, second = behaviour(context), behaviour({**context, **change})
    same_shapes = [tensor.shape for tensor in first] == [tensor.shape for tensor in second]
    assert not (same_shapes and all(torch.equal(a, b) for a, b in zip(first, second, strict=True)))


def test_the_share_of_the_gradient_that_reaches_the_embeddings_is_exact():
    whole = RecurrentMemoryTransformer(small_config(backbone=small_backbone(positions="learned", max_positions=5)))
    part = RecurrentMemoryTransformer(
        small_config(backbone=small_backbone(positions="learned", max_positions=5), embedding_gradient=0.1)
    )
    part.load_state_dict(whole.state_dict())
    tokens = random_tokens(2, 19)
    for model in (whole, part):
        model.double()(tokens, labels=tokens).loss.backward()
    for (name, expected), parameter in zip(whole.named_parameters(), part.parameters(), strict=True):
        share = 0.1 if name.startswith("decoder.embedding.") else 1.0
        torch.testing.assert_close(parameter.grad, share * expected.grad, rtol=1e-12, atol=1e-15, msg=name)


def test_stopping_the_write_gradient_leaves_the_gradient_through_what_was_read():
    gradients = []
    for write_gradient in (True, False):
        torch.manual_seed(0)
        model = RecurrentMemoryTransformer(small_config(write_gradient=write_gradient)).double()
        model(random_tokens(1, 15), labels=random_tokens(1, 15, seed=1)).loss.backward()
        gradients.append(model.memory.initial.grad)
    assert gradients[1].abs().max() > 0
    assert not torch.equal(*gradients)


@pytest.mark.parametrize("learns", ["states", "weights", "none"])
def test_recalled_states_have_a_gradient_only_where_asked_for(learns: str):
    tokens = random_tokens(1, 10)
    torch.manual_seed(0)
    # Without memory, the second segment depends on the first through what it recalls alone.
    model = RecurrentMemoryTransformer(small_config(num_memory_tokens=0, xl_length=4, xl_gradient=learns))
    state = model(tokens[:, :5]).state
    model(tokens[:, 5:], state).logits.sum().backward()
    only_first = sorted(set(tokens[0, :5].tolist()) - set(tokens[0, 5:].tolist()))
    gradient = model.decoder.embedding.tokens.weight.grad[only_first]
    assert bool(gradient.abs().max() > 0) is (learns == "states")


def test_weights_learn_from_what_is_recalled_unless_told_otherwise():
    found: dict[str, Tensor] = {}
    for learns in ("weights", "none"):
        torch.manual_seed(0)
        model = RecurrentMemoryTransformer(small_config(num_memory_tokens=0, xl_length=4, xl_gradient=learns))
        first = model(random_tokens(1, 5)).state.detach()
        block = model.decoder.blocks[-1]
        model(random_tokens(1, 1, seed=1), first).logits.sum().backward()
        found[learns] = block.mixer.input_proj.weight.grad[block.mixer.query_size :]
    assert not torch.allclose(found["weights"], found["none"])


def test_the_sign_code_carries_signs_and_passes_gradients_on():
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(small_config(memory_code="sign")).double()
    output = model(random_tokens(3, 15))
    assert set(output.state.memory.unique().tolist()) == {-1.0, 1.0}
    output.logits[:, -1].sum().backward()
    assert model.decoder.embedding.tokens.weight.grad.abs().sum() > 0


def test_flips_turn_about_their_share_of_the_signs_in_training_alone():
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(small_config(memory_code="sign", memory_flips=0.1, num_memory_tokens=8)).double()
    tokens = random_tokens(64, 5)
    clean = model.eval()(tokens).state.memory
    assert torch.equal(clean, model(tokens).state.memory)
    share = (model.train()(tokens).state.memory != clean).double().mean().item()
    assert 0.08 < share < 0.12


def test_noise_is_a_share_of_the_memorys_size_in_training_alone():
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(small_config(memory_noise=0.2, num_memory_tokens=8)).double()
    tokens = random_tokens(64, 5)
    clean = model.eval()(tokens).state.memory
    assert torch.equal(clean, model(tokens).state.memory)
    noise = model.train()(tokens).state.memory - clean
    ratio = (noise.pow(2).mean() / clean.pow(2).mean()).sqrt().item()
    assert 0.19 < ratio < 0.21
