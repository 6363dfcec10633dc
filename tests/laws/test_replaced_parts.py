"""Whatever stands in place of a part acts in steps too, which call methods of parts and not the parts."""

import re
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from laws.families import beside, case_name, cases, random_tokens, small_model
from retentive import generate
from retentive.engine.eager import EagerSteps
from retentive.layers.memory.tokens import MemoryTokens
from retentive.models.base import DecoderModel
from retentive.models.registry import family_names
from retentive.state import ModelState

TIME = 11


def shifted(made: Any) -> Any:
    """What a part gives, with something added to its first tensor that no norm takes away."""
    if isinstance(made, tuple):
        return shifted(made[0]), *made[1:]
    return made + torch.linspace(0, 1, made.shape[-1], dtype=made.dtype) if isinstance(made, Tensor) else made


class Bare(nn.Module):
    """Knows nothing but how to call what it wraps."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base

    def forward(self, *given: Any, **named: Any) -> Any:
        return shifted(self.base(*given, **named))


class Transparent(Bare):
    """Has all methods of what it wraps, as wrappers of torch and of PEFT have: a ``step`` that leaves it out."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def replaced(model: DecoderModel, name: str, part: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, part)


def bare(model: DecoderModel, name: str) -> None:
    part = model.get_submodule(name)
    wrapper = Bare(part)
    if hasattr(part, "initial_state"):
        cast("Any", wrapper).initial_state = cast("Any", part).initial_state
    replaced(model, name, wrapper)


def transparent(model: DecoderModel, name: str) -> None:
    replaced(model, name, Transparent(model.get_submodule(name)))


def derived(model: DecoderModel, name: str) -> None:
    """A subclass that says anew what a call does."""
    part = model.get_submodule(name)
    kind: Any = type(part)
    part.__class__ = type(
        "Mine", (kind,), {"forward": lambda self, *given, **named: shifted(kind.forward(self, *given, **named))}
    )


def parts(model: nn.Module) -> list[str]:
    """One part of each class that steps, and a dropout of each place."""
    kinds = {
        (type(part), name.rpartition(".")[2] if isinstance(part, nn.Dropout) else ""): name
        for name, part in model.named_modules()
        if name and (hasattr(type(part), "step") or isinstance(part, nn.Dropout | MemoryTokens))
    }
    return list(kinds.values())


def stepped(model: DecoderModel, state: ModelState, tokens: Tensor) -> Tensor:
    steps = EagerSteps(model)
    steps.begin()
    mine, logits = steps.own(state), []
    for column in tokens.t():
        made, mine = steps.step(column, mine, {})
        logits.append(made)
    return torch.stack(logits, 1)


@torch.no_grad()
@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_what_stands_in_place_of_a_part_acts_in_steps(family: str, changes: dict[str, Any]):
    tokens, new, whole = random_tokens(2, TIME), random_tokens(2, 1, seed=1), small_model(family, **changes)
    before, state = whole(tokens, **beside(whole, tokens)).logits, whole(tokens).state
    for change in (bare, transparent, derived):
        for name in parts(whole):
            # Wrappers have neither the class that annotations name, nor in `Bare` more than a call.
            is_known = re.fullmatch(r"\w+|.*blocks\.\d+|cross\.\d+", name) is not None
            if change is not derived and (is_known or changes or "attention" in name):
                continue
            model = deepcopy(whole)
            stepped(model, state, new)  # what was looked up is looked up again
            change(model, name)
            output = model(tokens, **beside(model, tokens))
            gives_none = name == "key_values" or (name == "memory" and not whole.config.carried_tokens)
            assert gives_none or not torch.allclose(output.logits, before), name
            expected = model(new, output.state).logits
            found = stepped(model, output.state, new)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10, msg=f"{name} {change.__name__}")


def each_kind(model: nn.Module) -> list[str]:
    """The last module of each class and place. Lists are never called, and projections have laws of their own."""
    found = {
        (re.sub(r"\d+", "", name), type(part)): name
        for name, part in model.named_modules()
        if name and not isinstance(part, nn.ModuleList | nn.Linear)
    }
    return list(found.values())


class Added:
    """A hook that adds to the first tensor that a module gives, and knows whether there was one."""

    def __init__(self, module: nn.Module) -> None:
        self.calls, self.sizes = 0, set[int]()
        self.handle = module.register_forward_hook(self)

    def __call__(self, module: nn.Module, given: Any, made: Any) -> Any:
        self.calls += 1
        self.sizes.add(made.numel() if isinstance(made, Tensor) else 0)
        if isinstance(made, tuple):
            self.sizes.add(made[0].numel() if isinstance(made[0], Tensor) else 0)
            return self(module, given, made[0]), *made[1:]
        if not isinstance(made, Tensor):
            return made
        return made + torch.linspace(0.3, 1, made.shape[-1], dtype=made.dtype)


@torch.no_grad()
@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_what_is_added_to_the_output_of_any_module_acts(family: str, changes: dict[str, Any]):
    """In logits and loss, and the same in a text that is cut and in one that is read token by token."""
    model, tokens, new = small_model(family, **changes), random_tokens(1, TIME), random_tokens(1, 2, seed=1)
    neighbours = beside(model, tokens)
    before = model(tokens, labels=tokens, **neighbours)
    for name in each_kind(model):
        if changes and not list(model.get_submodule(name).children()):
            continue  # what has no parts of its own is the same in every variant
        added = Added(model.get_submodule(name))
        whole = model(tokens, labels=tokens, **neighbours)
        assert added.calls, f"{name} is never called"
        if added.sizes - {0}:
            assert not torch.allclose(whole.logits, before.logits), name
            assert not torch.allclose(whole.loss, before.loss), name
        first = model(tokens[:, :3])
        rest = model(tokens[:, 3:], first.state, **beside(model, tokens[:, 3:], first.state))
        for found, wanted in (
            (torch.cat((first.logits, rest.logits), 1), whole.logits),
            (model(tokens, labels=tokens, logits_to_keep=0, **neighbours).loss, whole.loss),
            (stepped(model, whole.state, new), model(new, whole.state).logits),
        ):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9, msg=lambda text, name=name: name + text)
        added.handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("what", ["forward", "hidden_states", "read_out"])
def test_a_model_that_says_anew_what_a_call_does_is_called(what: str):
    model = small_model("retnet")
    kind: Any = type(model)

    def anew(self: DecoderModel, *given: Any, **named: Any) -> Any:
        made = getattr(kind, what)(self, *given, **named)
        if what == "hidden_states":
            return -made[0], made[1]
        return type(made)(-made.logits, made.state, made.loss)

    model.__class__ = type("Mine", (kind,), {what: anew})
    tokens = [1, 2, 3]
    for token in generate(model, tokens, max_new_tokens=6).tokens[0].tolist():
        assert token == int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        tokens.append(token)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "name", "what"),
    [
        ("retro", "cross.0.attention", "query"),
        ("rmt", "", "columns"),
        ("rmt", "", "run"),
    ],
)
def test_a_method_that_calls_use_and_steps_do_not_acts_in_steps(family: str, name: str, what: str):
    model, tokens, new = small_model(family), random_tokens(2, 8), random_tokens(2, 3, seed=1)
    before = model(tokens, **beside(model, tokens)).logits
    part = model.get_submodule(name)
    kind: Any = type(part)

    def anew(self: Any, *given: Any, **named: Any) -> Any:
        made = getattr(kind, what)(self, *given, **named)
        return replace(made, columns=shifted(made.columns)) if what == "run" else shifted(made)

    part.__class__ = type("Mine", (kind,), {what: anew})
    output = model(tokens, **beside(model, tokens))
    assert not torch.allclose(output.logits, before)
    expected = model(new, output.state).logits
    torch.testing.assert_close(stepped(model, output.state, new), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_dropout_that_drops_in_eval_mode_drops(family: str, changes: dict[str, Any]):
    """As for an ensemble of one model (Gal & Ghahramani 2016): the model is in eval mode, its dropouts are not."""
    model = small_model(family, **changes)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 1.0
            part.train()
    tokens, labels = random_tokens(2, TIME), random_tokens(2, TIME, seed=1)
    with torch.no_grad():
        output = model(tokens[:, :-1], labels=labels[:, :-1])
        logits = model(tokens[:, -1:], output.state).logits[:, -1]
        found = stepped(model, output.state, tokens[:, -1:])[:, 0]
    torch.testing.assert_close(found, logits)
    assert torch.allclose(logits, output.logits[:, -1], atol=1e-10) or family == "rmt", "nothing is left of any token"


@pytest.mark.parametrize("family", family_names())
def test_another_activation_acts_with_its_own_gradient(family: str):
    """In calls, in their gradients, and in steps that were taken before."""
    model = small_model(family)
    tokens, labels = random_tokens(2, TIME), random_tokens(2, TIME, seed=1)
    stepped(model, model(tokens).state, tokens[:, :1])
    layers: list[Any] = [part for part in model.modules() if hasattr(part, "activation")]
    for layer in layers:
        layer.activation = torch.tanh

    def loss() -> Tensor:
        found = model(tokens, labels=labels, **beside(model, tokens)).loss
        assert found is not None
        return found

    with torch.no_grad():
        last = model(tokens, logits_to_keep=1).logits
        found = stepped(model, model(tokens[:, :-1]).state, tokens[:, -1:])
    torch.testing.assert_close(found, last, rtol=0, atol=1e-10)
    weights = [layer.input_proj.weight for layer in layers]
    ways = [torch.randn_like(weight) for weight in weights]
    slope = sum((grad * way).sum() for grad, way in zip(torch.autograd.grad(loss(), weights), ways, strict=True))
    at: list[Tensor] = []
    with torch.no_grad():
        for size in (1e-5, -2e-5):
            for weight, way in zip(weights, ways, strict=True):
                weight.add_(way, alpha=size)
            at.append(loss())
    torch.testing.assert_close(slope, (at[0] - at[1]) / 2e-5, rtol=1e-4, atol=1e-7)
