"""Once a model has been called, a call copies nothing from the CPU to the device that it computes on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from laws.families import beside, case_name, cases, random_tokens, small_model
from retentive.layers.token_place import PLAIN, SegmentPosition

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Notes operations that take a tensor from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        given = [each for each in args if isinstance(each, torch.Tensor)]
        if isinstance(made, torch.Tensor) and any(each.device != made.device for each in given):
            self.found.append(str(function))
        return made


class Literals(TorchFunctionMode):
    """Notes tensors that are made of Python's numbers, which on a GPU are copied there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor):
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


def copied(call: Callable[[], object]) -> list[str]:
    """What a call copies."""
    with Literals() as literals, Copies() as copies:
        call()
    return copies.found + literals.found


def test_copies_are_counted():
    for call in (
        lambda: torch.zeros(2).to(META),
        lambda: torch.zeros(2, device=META).copy_(torch.zeros(2)),
        lambda: torch.tensor([2], device=META),
        lambda: torch.zeros(2, device=META).new_tensor([2]),
    ):
        assert len(copied(call)) == 1


CASES = [case for case in cases() if case[1].get("read_first", True)]
"""Segments of different lengths are laid out by values, for which a GPU is waited for in any case."""


@pytest.mark.parametrize(("family", "changes"), CASES, ids=case_name)
def test_a_second_call_copies_nothing(family: str, changes: dict[str, Any]):
    model = small_model(family, dtype=torch.float32, **changes)
    tokens = random_tokens(2, 11)
    given = {name: value.to(META) for name, value in beside(model, tokens).items()}
    model, tokens = model.to(META), tokens.to(META)

    def call() -> None:
        model(tokens, labels=tokens, logits_to_keep=0, **given).loss.backward()
        model(tokens, logits_to_keep=1, **given)
        if family != "retro":  # whose step looks at whether a chunk ends
            model.step(tokens[:, 0], model.initial_state(2))

    call()
    assert not copied(call)


def test_segments_that_values_lay_out_are_made_of_no_numbers():
    model = small_model("rmt", read_first=False)
    tokens = random_tokens(3, 11)
    mask = torch.arange(11) >= torch.tensor([[0], [2], [5]])
    with Literals() as literals:
        model(tokens, mask=mask, labels=tokens)
    assert not literals.found


def test_the_place_of_a_step_copies_nothing():
    rotary = small_model("transformer").decoder.rotary
    like = torch.zeros(2, dtype=torch.long, device=META)
    for place in (
        lambda: PLAIN.place_at(SegmentPosition(3, like, 8), rotary, torch.float32),
        lambda: PLAIN.place(like, rotary, torch.float32),
    ):
        place()
        assert not copied(place)
