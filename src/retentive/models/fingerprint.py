"""A fingerprint that tells two models' weights apart without reading all of them."""

import hashlib
from collections.abc import Collection, Mapping, Set
from typing import cast

import torch
from torch import Tensor, nn

_OF_TORCH = frozenset(vars(nn.Module()))
_KNOWN = ("torch.", "retentive.", "transformers.")
"""Packages whose parts compute what a model's config says; another release's settings do not make another model."""
_DEPTH = 3

SAMPLES = 64
"""Values that are read of each tensor, evenly spaced; smaller tensors are read whole."""


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, dtypes and shapes of all weights and a few values of each.

    It is the same on every device. Two models that were trained apart differ everywhere, so a few values tell them
    apart; a manual change of single values in a large tensor can stay unnoticed. Parts of other packages, such as
    adapters, stand in it with their names and settings: one that is disabled, or has another scale, is another model.
    """
    beside = _parts_of_others(model)
    if getattr(model, "quantisation", None) is None:
        return fingerprint_of(model.state_dict(), beside)
    # Weights of 4 bits are in an order of this machine; their scales tell them apart as well.
    named = dict(model.named_parameters())
    ordered = {name for name in named if f"{name.removesuffix('weight')}scales_and_zeros" in named}
    return fingerprint_of({name: tensor for name, tensor in named.items() if name not in ordered}, beside)


def fingerprint_of(tensors: Mapping[str, Tensor], beside: str = "") -> str:
    """`weights_fingerprint` of some weights by name, with words on what is computed beside them."""
    whole = hashlib.sha256(beside.encode())
    samples: list[Tensor] = []
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().flatten()
        samples.append(flat[:: max(1, flat.numel() // SAMPLES)].to(torch.float64))
    if samples:
        whole.update(torch.cat(samples).cpu().numpy().tobytes())
    return whole.hexdigest()


def _parts_of_others(model: nn.Module) -> str:
    """Parts of none of `_KNOWN`, with their settings; empty without any."""
    found: list[str] = []
    for name, part in model.named_modules():
        home = type(part).__module__
        if home.startswith(_KNOWN):
            continue
        found.append(f"{name} {home}.{type(part).__qualname__}")
        held = {key: value for key, value in vars(part).items() if key not in _OF_TORCH}
        found += [f"{key}={said}" for key, value in sorted(held.items()) if (said := _said(value, _DEPTH)) is not None]
    return "\n".join(found)


def _said(value: object, depth: int) -> str | None:
    """A setting in words; None of objects, and of whole numbers by themselves, which may count calls."""
    if isinstance(value, bool | str | float):
        return repr(value)
    if isinstance(value, Mapping) and depth:
        pairs = cast("Mapping[object, object]", value).items()
        return repr(sorted((str(key), _said(held, depth - 1)) for key, held in pairs))
    if isinstance(value, list | tuple | Set) and depth:
        said = [_said(held, depth - 1) for held in cast("Collection[object]", value)]
        return repr(sorted(map(str, said)) if isinstance(value, Set) else said)
    return None
