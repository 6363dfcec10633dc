"""Checks of what stands in a state's tensors: numbers of the right kind, none that is NaN, and positions from 0 on."""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any, cast, get_args

import torch
from torch import Tensor

from retentive.errors import DivergedError, MismatchError
from retentive.ops.tracing import is_traced
from retentive.state import RecurrentState, named_tensors

_KINDS = (("float32", "floating-point numbers"), ("int64", "integers"), ("bool", "flags"))
"""A dtype of each kind of numbers that an annotation may name, and what to call the kind."""


def check_state_values(state: RecurrentState, *, thorough: bool = False) -> None:
    """Validate the numbers of a state: each part's of its kind, none NaN, and positions counted from 0.

    Values are read of ordinary tensors on the CPU, where nothing is waited for, and of none whose gradient is wanted:
    training says by itself where a loss is NaN.

    Args:
        state: Any state.
        thorough: Read the values of all tensors, for which one may have to wait.

    Raises:
        MismatchError: If a part has numbers of another kind, or a position is negative.
        DivergedError: If a part has NaN.
    """
    for name, tensor, wanted in _parts("", state):
        found = _kind_of(tensor)
        if wanted not in (None, found):
            raise MismatchError(
                f"state must have {wanted} in its {name}, but has {found} ({tensor.dtype}); take it from a model's "
                "output."
            )
    if is_traced():
        return
    for name, tensor in named_tensors(state).items():
        is_read = thorough or (tensor.device.type == "cpu" and not tensor.requires_grad and type(tensor) is Tensor)
        if not is_read or tensor.is_meta:
            continue
        if not tensor.is_floating_point():
            # Layers count as their model does; theirs are read where a state comes in from outside.
            if name in ("position", "model.position") or (thorough and name.endswith(".position")):
                _check_counted(name, tensor)
            continue
        # Of infinities of both signs the sum is NaN, too.
        if bool(tensor.sum().isnan()):
            raise DivergedError(
                f"state must have no NaN, but its {name} has: what made it had diverged, or it was altered; go on from "
                "an earlier state."
            )


def _check_counted(name: str, position: Tensor) -> None:
    if position.numel() and int(position.amin()) < 0:
        raise MismatchError(
            f"state must count the tokens that it has read in its {name}, from 0 on, but has {int(position.amin())} in "
            "it; take it from a model's output."
        )


def _parts(prefix: str, state: RecurrentState) -> Iterator[tuple[str, Tensor, str | None]]:
    """All tensors of a state, their paths, and the kind of numbers that their annotations ask for."""
    kinds = _wanted_kinds(type(state))
    for field in fields(state):
        yield from _parts_of_value(prefix + field.name, getattr(state, field.name), kinds[field.name])


def _parts_of_value(name: str, value: object, kind: str | None) -> Iterator[tuple[str, Tensor, str | None]]:
    if isinstance(value, Tensor):
        yield name, value, kind
    elif isinstance(value, RecurrentState):
        yield from _parts(f"{name}.", value)
    elif isinstance(value, tuple):
        for index, part in enumerate(cast("tuple[object, ...]", value)):
            yield from _parts_of_value(f"{name}.{index}", part, None)


@cache
def _wanted_kinds(state: type[RecurrentState]) -> dict[str, str | None]:
    return {field.name: _annotated_kind(field.type) for field in fields(state)}


def _annotated_kind(annotation: Any) -> str | None:
    """The kind of numbers of a tensor's annotation; None where it names none, or more than one."""
    for part in (annotation, *get_args(annotation)):
        dtypes = getattr(part, "dtypes", ())
        found = [noun for dtype, noun in _KINDS if dtype in dtypes]
        if len(found) == 1:
            return found[0]
    return None


def _kind_of(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "floating-point numbers"
    return "flags" if tensor.dtype == torch.bool else "integers"
