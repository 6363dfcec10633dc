"""Who looks at what layers return, or keeps it, changes nothing: what is written over is nobody else's."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from laws.families import beside, case_name, cases, random_tokens, small_model
from retentive.models.base import DecoderModel

PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]


def loss_of(model: DecoderModel) -> Tensor:
    tokens = random_tokens(2, 13)
    loss = model(tokens, labels=random_tokens(2, 13, seed=1), **beside(model, tokens)).loss
    assert loss is not None
    return loss


def gradients(model: DecoderModel) -> dict[str, Tensor]:
    """Of the loss of a text, in training."""
    model.train().zero_grad()
    loss_of(model).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(
            gradient, other[name], rtol=1e-9, atol=1e-11, msg=lambda text, name=name: name + text
        )


@pytest.mark.parametrize("everywhere", [False, True], ids=["each module's", "all modules'"])
@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_forward_hook_keeps_what_it_was_given(family: str, changes: dict[str, Any], everywhere: bool):
    without, model = gradients(small_model(family, **changes)), small_model(family, **changes)
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            kept.append((first.detach(), first.detach().clone()))

    if everywhere:
        handle = register_module_forward_hook(keep)
    else:
        for module in model.modules():
            handle = module.register_forward_hook(keep)
    try:
        same(gradients(model), without)
    finally:
        handle.remove()
    assert kept
    assert all(torch.equal(now, then) for now, then in kept)


@pytest.mark.parametrize("name", ["dropout", "mixer", "feed_forward", "attention", "norm"])
@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_hook_of_one_kind_of_module_keeps_what_it_was_given(family: str, changes: dict[str, Any], name: str):
    model = small_model(family, **changes)
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        kept.append((first.detach(), first.detach().clone()))

    for path, module in model.named_modules():
        if path.endswith(name):
            module.register_forward_hook(keep)
    gradients(model)
    assert all(torch.equal(now, then) for now, then in kept)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_backward_hook_sees_every_projection(family: str, changes: dict[str, Any]):
    without, model = gradients(small_model(family, **changes)), small_model(family, **changes)
    seen: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Dropout):
            module.register_full_backward_hook(lambda *_, name=name: seen.add(name))
    same(gradients(model), without)
    assert seen


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_checkpoint_that_keeps_products_gives_the_same_gradient(family: str, changes: dict[str, Any]):
    without, model = gradients(small_model(family, **changes)), small_model(family, **changes)
    model.train()
    contexts = partial(create_selective_checkpoint_contexts, PRODUCTS)
    checkpoint(partial(loss_of, model), use_reentrant=False, context_fn=contexts).backward()
    same({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, without)
