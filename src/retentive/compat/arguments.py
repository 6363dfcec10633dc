"""Checks of other packages' arguments: those that this library cannot honour are refused by name, never ignored."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retentive.models.registry import config_class


def refuse(name: str, given: object, allowed: object, why: str) -> None:
    """Check an argument of which only one value is supported here.

    Raises:
        ValueError: If it has another value; the message says why.
    """
    if given != allowed:
        raise ValueError(f"{name} must be {allowed!r}, but is {given!r}: {why}.")


def decoder_config(*, sizes: tuple[int, int, int, int, int], dropouts: tuple[float, float], **options: Any) -> Any:
    """The config of a Transformer whose head has a bias, as the decoders of other packages have.

    Args:
        sizes: Token ids, hidden size, layers, heads, and channels of a head.
        dropouts: In the residual stream, and of attention weights.
        options: Other fields of `TransformerConfig`.
    """
    names = ("vocab_size", "hidden_size", "num_layers", "num_heads", "head_dim", "dropout", "attention_dropout")
    return config_class("transformer")(**dict(zip(names, (*sizes, *dropouts), strict=True)), head_bias=True, **options)


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
