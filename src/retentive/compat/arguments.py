"""Checks of other packages' arguments: those that this library cannot honour are refused by name, never ignored."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def refuse(name: str, given: object, allowed: object, why: str) -> None:
    """Check an argument of which only one value is supported here.

    Raises:
        ValueError: If it has another value; the message says why.
    """
    if given != allowed:
        raise ValueError(f"{name} must be {allowed!r}, but is {given!r}: {why}.")


def activation_name(given: str | Callable[[Tensor], Tensor]) -> str:
    """Our name of an activation that is given by name or as torch's function.

    Raises:
        ValueError: If it is another.
    """
    known = {
        "swish": ("swish", nn.functional.silu, torch.nn.functional.silu),
        "gelu": ("gelu", nn.functional.gelu),
        "relu": ("relu", nn.functional.relu, torch.relu),
    }
    for name, spellings in known.items():
        if given in spellings:
            return name
    raise ValueError(
        f"activation must be 'swish', 'gelu' or 'relu', or torch.nn.functional's silu, gelu or relu, but is {given!r}: "
        "a model that can be saved has its activation by name."
    )
