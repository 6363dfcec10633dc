"""A state is a value: it shares no memory with the weights, and what is broken in it is refused."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch

from laws.families import beside, case_name, cases, random_tokens, small_model
from retentive import generate, load_state, save_state
from retentive.errors import DivergedError, MismatchError
from retentive.models.registry import FAMILIES, build, config_class, model_class
from retentive.state import map_tensors, named_tensors


@pytest.mark.parametrize("time", [0, 1, 3, 13])
@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_it_shares_no_memory_with_the_weights(family: str, changes: dict, time: int):
    model = small_model(family, **changes)
    tokens = random_tokens(1, time) if time else None
    state = model.initial_state(1) if tokens is None else model(tokens, **beside(model, tokens)).state
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for name, tensor in named_tensors(state).items():
        assert not tensor.numel() or tensor.untyped_storage().data_ptr() not in weights, name


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_state_of_which_a_part_has_other_rows_is_refused(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(2, 7)).state
    for name, tensor in named_tensors(state).items():
        with pytest.raises(ValueError, match="state must have"):
            model(random_tokens(2, 3), with_part(state, name, tensor[:1]))


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_state_of_which_a_part_is_nan_or_of_another_kind_is_refused_by_name(
    family: str, changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = small_model(family, **changes)
    with torch.no_grad():
        state = model(random_tokens(2, 7)).state
    more = random_tokens(2, 3)
    for number, (name, tensor) in enumerate(named_tensors(state).items()):
        if not tensor.numel():
            continue
        wrong = with_part(state, name, tensor.double() if not tensor.is_floating_point() else tensor.long())
        for way in (lambda: model(more, wrong), lambda: save_state(wrong, tmp_path / "wrong", model)):  # noqa: B023
            with pytest.raises(MismatchError, match=rf"state must have \S+ .*in its {name}, but has "):
                way()
        if not tensor.is_floating_point():
            continue
        broken = tensor.clone(memory_format=torch.contiguous_format)
        broken.view(-1)[-1] = torch.nan
        wrong = with_part(state, name, broken)
        for way in (
            lambda: model(more, wrong),  # noqa: B023
            lambda: generate(model, more, max_new_tokens=1, state=wrong),  # noqa: B023
            lambda: save_state(wrong, tmp_path / "wrong", model),  # noqa: B023
        ):
            with pytest.raises(DivergedError, match=rf"state must have no NaN, but its {name} has"):
                way()
        if number < 3:
            with monkeypatch.context() as earlier:
                earlier.setattr("retentive.checkpoints.states.check_state_values", lambda state, **options: None)
                save_state(wrong, tmp_path / "nan", model)
            with pytest.raises(DivergedError, match=f"nan cannot be gone on from: .* its {name} has"):
                load_state(tmp_path / "nan", model)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_state_that_counts_from_below_nothing_is_refused(family: str, changes: dict, tmp_path: Path):
    model, tokens = small_model(family, **changes), random_tokens(2, 7)
    state = model(tokens).state.detach()
    for name, tensor in named_tensors(state).items():
        if name.rpartition(".")[2] not in ("position", "place"):
            continue
        wrong = with_part(state, name, tensor - 100)
        # What layers count is read where a state comes in from outside.
        ways = [partial(generate, model, tokens[:, :1], max_new_tokens=1, state=wrong)]
        ways += [partial(save_state, wrong, tmp_path / "wrong", model)] * (name != "place")
        ways += [partial(model, tokens, wrong)] * (name in ("position", "place"))
        message = f"state must .*(its {name}, from 0 on|places in a chunk), .*but has"
        for way in ways:
            with pytest.raises(MismatchError, match=message):
                way()


def with_part(state, name: str, tensor: torch.Tensor):
    """The state with another tensor, past the shape checks of the test run, which users do not have."""
    changed = map_tensors(state, torch.clone)
    *path, last = name.split(".")
    owner = changed
    for step in path:
        owner = owner[int(step)] if step.isdigit() else getattr(owner, step)
    object.__setattr__(owner, last, tensor)
    return changed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_refuses_the_config_of_another(family: str):
    other = "transformer" if family != "transformer" else "retnet"
    config = small_model(other).config
    with pytest.raises(Exception, match=f"config of a {model_class(family).__name__} must be a|Type-check error"):
        model_class(family)(config)


def test_build_takes_a_subclass_of_no_config():
    config = small_model("retnet").config
    assert type(build(config)).__name__ == "RetNet"
    assert dataclasses.replace(config) == config
    assert config_class("retnet") is type(config)
