"""Every projection is called, never read past: whatever stands in its place acts wherever the model computes."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import register_parametrization

from laws.families import beside, case_name, cases, options, random_tokens, small_model
from retentive import generate
from retentive.engine.eager import EagerSteps
from retentive.errors import MismatchError
from retentive.experiments.linearise.start import hybrid_config, linear_start
from retentive.layers.quantised import QuantisationConfig
from retentive.models.base import DecoderModel
from retentive.models.protocol import LanguageModel
from retentive.models.quantise import quantise
from retentive.models.retro import retro_over, retrofit
from retentive.models.rmt import RecurrentMemoryConfig, with_memory

TIME = 11


class Shifted(nn.Module):
    """What an adapter looks like from outside: it has the weight of what it wraps, and computes something else."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.weight, self.bias = base.weight, base.bias
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.1


def with_bias(model: LanguageModel, name: str) -> None:
    """What all the others must be equal to: a plain projection that adds the same."""
    linear = model.get_submodule(name)
    shift = torch.full((linear.out_features,), 0.1, dtype=torch.float64)
    linear.bias = nn.Parameter(shift if linear.bias is None else linear.bias.detach() + shift)


def wrapped(model: LanguageModel, name: str) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, Shifted(model.get_submodule(name)))


def patched(model: LanguageModel, name: str) -> None:
    linear = model.get_submodule(name)
    original = linear.forward
    linear.forward = lambda x: original(x) + 0.1


def hooked(model: LanguageModel, name: str) -> None:
    model.get_submodule(name).register_forward_hook(lambda _, __, output: output + 0.1)


class Plus(nn.Module):
    """A parametrisation."""

    def forward(self, bias: Tensor) -> Tensor:
        return bias + 0.1


def parametrised(model: LanguageModel, name: str) -> None:
    linear = model.get_submodule(name)
    if linear.bias is None:
        linear.bias = nn.Parameter(torch.zeros(linear.out_features, dtype=torch.float64))
    register_parametrization(linear, "bias", Plus(), unsafe=True)
    weight_norm(linear)


def projections(model: nn.Module) -> list[str]:
    """The last of each kind: layers that are made of the same class read their projections in the same way."""
    kinds = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            owner = model.get_submodule(name.rpartition(".")[0])
            kinds[re.sub(r"\d+", "", name), type(owner)] = name
    return list(kinds.values())


def results(model: LanguageModel) -> dict[str, Tensor]:
    """What a call gives with gradients and without, its gradient, and what generating gives."""
    tokens, labels = random_tokens(1, TIME), random_tokens(1, TIME, seed=1)
    output = model(tokens, labels=labels, **beside(model, tokens))
    output.loss.backward()
    with torch.no_grad():
        again = model(tokens, **beside(model, tokens))
        made = generate(model, tokens[:, :7], max_new_tokens=4)
        # The state of the last step goes on in a call: it is that of calls alone.
        last = model(made.state.unread[:, None], made.state.model)
    return {
        "logits": output.logits.detach(),
        "without gradients": again.logits,
        "loss": output.loss.detach(),
        "gradient": model.decoder.embedding.tokens.weight.grad,
        "after steps": last.logits,
        "tokens": torch.stack(made.tokens),
    }


def compare(family: str, changes: dict[str, Any], change: Callable[[LanguageModel, str], None], names: list[str]):
    theirs, ours = small_model(family, **changes), small_model(family, **changes)
    for name in names:
        with_bias(theirs, name)
        change(ours, name)
    expected, found = results(theirs), results(ours)
    for what, tensor in expected.items():
        assert torch.allclose(found[what], tensor, rtol=1e-9, atol=1e-10), f"{change.__name__} {names}: {what}"


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_what_stands_in_place_of_a_projection_acts(family: str, changes: dict[str, Any]):
    """All at once: one that is read past lacks its shift. Each by itself too, on each family as it is by itself."""
    names = projections(small_model(family, **changes))
    compare(family, changes, wrapped, names)
    if not changes:
        for name in names:
            compare(family, changes, wrapped, [name])
        for change in (patched, hooked, parametrised):
            compare(family, changes, change, names)


@pytest.mark.parametrize("family", ["hybrid", "rmt", "retro"])
def test_another_forward_of_the_class_of_all_projections_acts(family: str, monkeypatch: pytest.MonkeyPatch):
    """As tools that count or change products put one in place; models may have run before."""
    theirs, ours = small_model(family), small_model(family)
    results(ours)
    ours.zero_grad()
    for module in theirs.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, __, output: output + 0.1)
    expected, before = results(theirs), nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda linear, x: before(linear, x) + 0.1)
    found = results(ours)
    for what, tensor in expected.items():
        assert torch.allclose(found[what], tensor, rtol=1e-9, atol=1e-10), what


def scaled(made: Any) -> Any:
    """What a part gives, its first tensor by a tenth larger."""
    if isinstance(made, tuple) and isinstance(made[0], Tensor):
        return 1.1 * made[0], *made[1:]
    return 1.1 * made if isinstance(made, Tensor) else made


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_what_stands_in_place_of_the_forward_of_a_part_acts_in_steps(family: str, changes: dict[str, Any]):
    """Of blocks, mixers and what reads neighbours: an engine calls methods of theirs that leave it out."""
    plain = small_model(family, **changes)
    kinds = {type(part): name for name, part in plain.named_modules() if name and hasattr(type(part), "step")}
    tokens, new = random_tokens(2, TIME), random_tokens(2, 1, seed=1)
    for name in kinds.values():
        model = small_model(family, **changes)
        part = model.get_submodule(name)
        part.forward = lambda *given, before=part.forward, **named: scaled(before(*given, **named))
        with torch.no_grad():
            state = model(tokens).state
            steps = EagerSteps(model)
            steps.begin()
            logits, _ = steps.step(new[:, 0], steps.own(state), {})
            torch.testing.assert_close(logits, model(new, state).logits[:, -1], rtol=0, atol=1e-11, msg=name)


@pytest.mark.parametrize(
    ("family", "changes"), [case for case in cases() if "tie_embeddings" in options(case[0])], ids=case_name
)
def test_a_tied_head_shares_what_stands_in_place_of_the_table(family: str, changes: dict[str, Any]):
    ours = small_model(family, **{**changes, "tie_embeddings": True})
    theirs = small_model(family, **{**changes, "tie_embeddings": True})
    table = ours.decoder.embedding.tokens
    original = table.forward
    table.forward = lambda ids: 1.5 * original(ids)
    with torch.no_grad():
        theirs.decoder.embedding.tokens.weight.mul_(1.5)
    tokens = random_tokens(2, TIME)
    torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=1e-9, atol=1e-10)


def in_a_memory(model: DecoderModel) -> object:
    return with_memory(model, RecurrentMemoryConfig(backbone=model.config, segment_length=4, num_memory_tokens=2))


def linearised(model: DecoderModel) -> object:
    return linear_start(model, hybrid_config(model.config, ("retention", "attention")))


def fitted(model: DecoderModel) -> object:
    return retrofit(model, retro_over(model.config))


def rounded(model: DecoderModel) -> object:
    return quantise(model, QuantisationConfig(bits=8))


@pytest.mark.parametrize("take", [in_a_memory, fitted, linearised, rounded])
@pytest.mark.parametrize("change", [wrapped, patched, hooked, parametrised, rounded])
def test_a_model_is_not_taken_over_without_what_stands_in_place_of_a_part(
    take: Callable[[DecoderModel], object], change: Callable[..., None]
):
    """Its weights alone would compute something else, of weights of 8 bits too."""
    model = small_model("transformer")
    name = "decoder.blocks.1.feed_forward.output_proj"
    if change is rounded:
        rounded(model)
        rule = r"weights of floats|is a Quantised(Embedding|Linear): "
    else:
        change(model, name)
        rule = rf"for its weights alone are taken over, but (.*\.)?{name.removeprefix('decoder.')} (is a|has a)"
    if take is rounded and change in (wrapped, parametrised):
        take(model)  # which stays what it is
        assert getattr(model.get_submodule(name), "is_quantised", False) is False
        return
    with pytest.raises((MismatchError, ValueError), match=rule):
        take(model)
