"""A state is a value: it shares no memory with the weights, and what is broken in it is refused."""

import dataclasses

import pytest
import torch

from laws.families import beside, case_name, cases, random_tokens, small_model
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
        wrong = map_tensors(state, torch.clone)
        *path, last = name.split(".")
        owner = wrong
        for step in path:
            owner = owner[int(step)] if step.isdigit() else getattr(owner, step)
        object.__setattr__(owner, last, tensor[:1])  # past the shape checks of the test run, which users do not have
        with pytest.raises(ValueError, match="state must have"):
            model(random_tokens(2, 3), wrong)


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
