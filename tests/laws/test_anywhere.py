"""Models are compiled, functionally transformed and differentiated twice as they are called, or refuse by name."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from laws.families import case_name, cases, random_tokens, small_model
from retentive.models.registry import family_names
from retentive.ops import precision
from retentive.state import named_tensors, with_tensors

Weights = dict[str, torch.Tensor]


def test_training_is_compiled_whole_and_once_for_all_lengths():
    arguments = [sys.executable, str(Path(__file__).parent / "anywhere_process.py"), "hybrid", "yoco", "rmt", "retro"]
    run = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def largest_difference(ours: Weights, theirs: Weights) -> float:
    """Over all weights."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("family", family_names())
def test_derivatives_of_every_kind_agree(family: str):
    model = small_model(family).train()
    tokens, labels = random_tokens(2, 9), random_tokens(2, 9, seed=1)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    torch.manual_seed(0)
    direction = {name: torch.randn_like(weight) for name, weight in weights.items()}

    def loss(weights: Weights, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional_call(model, weights, (tokens,), {"labels": labels, "logits_to_keep": 0}).loss

    def eager(loss: torch.Tensor, create_graph: bool = False) -> Weights:
        found = torch.autograd.grad(loss, list(model.parameters()), create_graph=create_graph, allow_unused=True)
        return {
            name: torch.zeros_like(weight) if one is None else one
            for (name, weight), one in zip(weights.items(), found, strict=True)
        }

    first = eager(model(tokens, labels=labels, logits_to_keep=0).loss)
    assert largest_difference(grad(loss)(weights, tokens, labels), first) < 1e-12
    each = vmap(grad(loss), (None, 0, 0), randomness="different")(weights, tokens[:, None], labels[:, None])
    assert largest_difference({name: one.mean(0) for name, one in each.items()}, first) < 1e-12
    _, slope = jvp(lambda weights: loss(weights, tokens, labels), (weights,), (direction,))
    assert float(slope) == pytest.approx(sum(float((first[n] * direction[n]).sum()) for n in first), rel=1e-10)
    _, second = jvp(lambda weights: grad(loss)(weights, tokens, labels), (weights,), (direction,))
    with sdpa_kernel(SDPBackend.MATH):
        logits = model(tokens).logits.flatten(0, 1)
        again = eager(cross_entropy(logits, labels.flatten()), create_graph=True)
        assert largest_difference({n: one.detach() for n, one in again.items()}, first) < 1e-12
        twice = eager(sum((again[n] * direction[n]).sum() for n in again))
    assert largest_difference(second, twice) < 1e-9
    assert max(float(one.abs().max()) for one in twice.values()) > 1e-3
    with torch.no_grad():
        pairs = {name: torch.stack([weight, weight + 0.1 * direction[name]]) for name, weight in weights.items()}
        together = vmap(lambda weights: functional_call(model, weights, (tokens,)).logits)(pairs)
        for number in range(2):
            alone = functional_call(model, {name: pair[number] for name, pair in pairs.items()}, (tokens,)).logits
            assert float((together[number] - alone).abs().max()) < 1e-11
    with pytest.raises(RuntimeError, match=r"take the loss of output\.logits by torch\.nn\.functional\.cross_entropy"):
        eager(model(tokens, labels=labels, logits_to_keep=0).loss, create_graph=True)


@pytest.mark.parametrize("family", ["rmt", "retro"])
def test_borders_that_differ_are_not_mapped_over(family: str):
    model, tokens = small_model(family), random_tokens(2, 9)
    for name in ("mask", "starts"):
        with pytest.raises(ValueError, match=rf"{name} must be the same for all that torch\.func\.vmap maps over"):
            vmap(lambda row, flags, name=name: model(row, **{name: flags}).logits)(
                tokens[:, None], torch.eye(2, 9, dtype=torch.bool)[:, None]
            )


@torch.no_grad()
@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_texts_and_their_states_are_mapped_over_or_refused_by_name(family: str, changes: dict[str, Any]):
    model, tokens = small_model(family, **changes), random_tokens(2, 9)
    state = model(tokens[:, :4]).state
    expected = model(tokens[:, 4:], state).logits
    after_one = vmap(lambda row: model(row, state.select(torch.tensor([0]))).logits)(tokens[:1, None, 4:])
    torch.testing.assert_close(after_one[:, 0], expected[:1], rtol=0, atol=1e-11)

    def read(row: torch.Tensor, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(row, with_tensors(state, parts)).logits

    def mapped() -> torch.Tensor:
        return vmap(read)(tokens[:, None, 4:], {name: part[:, None] for name, part in named_tensors(state).items()})

    if family == "retro" or changes.get("read_first") is False:
        with pytest.raises(ValueError, match=r"state must be the same for all that torch\.func\.vmap maps over"):
            mapped()
    else:
        torch.testing.assert_close(mapped()[:, 0], expected, rtol=0, atol=1e-11)


class Products(TorchDispatchMode):
    """Counts the operations of matrix products by dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function.overloadpacket).split(".")[1] in ("mm", "addmm", "addmm_", "bmm", "baddbmm_"):
            left, right = [each for each in args if isinstance(each, torch.Tensor)][-2:]
            self.counted[left.dtype] = self.counted.get(left.dtype, 0) + left.numel() * right.shape[-1]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", family_names())
def test_autocast_reaches_the_products_of_the_loss(family: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: True)
    model = small_model(family, dtype=torch.float32).train()
    tokens = random_tokens(2, 9)
    with Products() as products:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(tokens, labels=tokens, logits_to_keep=0).loss
        loss.backward()
    assert loss.dtype is torch.float32
    assert all(parameter.grad is None or parameter.grad.dtype is torch.float32 for parameter in model.parameters())
    assert products.counted.get(torch.float32, 0) < 0.05 * products.counted[torch.bfloat16], products.counted
