"""Which weights decay, and how gradients are measured."""

import torch

from laws.families import family_names, small_model
from retentive.training.step.config import OptimizerConfig
from retentive.training.step.optimizer import decaying_parameters, gradient_norm, make_optimizer, scale_gradients


def test_only_matrices_decay():
    for family in family_names():
        model = small_model(family)
        decaying, steady = decaying_parameters(model)
        assert {**decaying, **steady}.keys() == dict(model.named_parameters()).keys()
        assert all(parameter.ndim == 2 for parameter in decaying.values())
        for name in steady:
            assert "norm" in name or name.endswith("bias") or "embedding" in name or "memory" in name, name
        assert not any("norm" in name or "embedding" in name for name in decaying), family


def test_a_tied_head_is_an_embedding():
    model = small_model("transformer", tie_embeddings=True)
    decaying, steady = decaying_parameters(model)
    assert "decoder.embedding.tokens.weight" in steady
    assert not any("head" in name for name in decaying)


def test_groups_stand_in_a_fixed_order_and_frozen_parameters_stay_out():
    model = small_model("retnet", head_bias=True)
    model.decoder.embedding.requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerConfig(weight_decay=0.3))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    decaying, steady = decaying_parameters(model)
    for group, expected in zip(optimizer.param_groups, (decaying, steady), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in expected.values()]
    assert not any("embedding" in name for name in {**decaying, **steady})


def test_without_a_gradient_only_decay_changes_weights():
    model = small_model("retnet")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decaying, _ = decaying_parameters(model)
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if name in decaying else before[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=0)


def test_the_norm_is_of_all_gradients_together():
    model = small_model("retnet")
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    parts = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(gradient_norm(model.parameters()), parts.norm())
    scale_gradients(model.parameters(), 0.5)
    torch.testing.assert_close(gradient_norm(model.parameters()), parts.norm() / 2)
