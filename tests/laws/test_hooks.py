"""Hooks see what a layer returned, and change nothing by looking: what is written over is nobody else's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laws.families import beside, case_name, cases, random_tokens, small_model
from retentive.layers.attention import Attention
from retentive.layers.cross_attention import CrossAttention
from retentive.layers.feed_forward import FeedForward
from retentive.layers.retention import MultiScaleRetention
from retentive.models.base import LanguageModel

LAYERS = (nn.Linear, Attention, CrossAttention, FeedForward, MultiScaleRetention)


def gradients(model: LanguageModel) -> dict[str, Tensor]:
    """Of the loss of a text, in training."""
    model.train().zero_grad()
    tokens = random_tokens(2, 13)
    loss = model(tokens, labels=random_tokens(2, 13, seed=1), **beside(model, tokens)).loss
    assert loss is not None
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(
            gradient, other[name], rtol=1e-9, atol=1e-11, msg=lambda text, name=name: name + text
        )


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_forward_hook_keeps_what_it_was_given(family: str, changes: dict[str, Any]):
    without, model = gradients(small_model(family, **changes)), small_model(family, **changes)
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        kept.append((first.detach(), first.detach().clone()))

    for module in model.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(keep)
    same(gradients(model), without)
    assert kept
    assert all(torch.equal(now, then) for now, then in kept)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_backward_hook_sees_every_projection(family: str, changes: dict[str, Any]):
    without, model = gradients(small_model(family, **changes)), small_model(family, **changes)
    seen: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_full_backward_hook(lambda *_, name=name: seen.add(name))
    same(gradients(model), without)
    assert seen
