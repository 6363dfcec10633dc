"""A fingerprint that tells two models' weights apart without reading all of them."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

SAMPLES = 64
"""Values that are read of each tensor, evenly spaced; smaller tensors are read whole."""


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, dtypes and shapes of all weights and a few values of each.

    It is the same on every device. Two models that were trained apart differ everywhere, so a few values tell them
    apart; a manual change of single values in a large tensor can stay unnoticed.
    """
    if getattr(model, "quantisation", None) is None:
        return fingerprint_of(model.state_dict())
    # Weights of 4 bits are in an order of this machine; their scales tell them apart as well.
    named = dict(model.named_parameters())
    ordered = {name for name in named if f"{name.removesuffix('weight')}scales_and_zeros" in named}
    return fingerprint_of({name: tensor for name, tensor in named.items() if name not in ordered})


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """`weights_fingerprint` of some weights by name."""
    whole = hashlib.sha256()
    samples: list[Tensor] = []
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().flatten()
        samples.append(flat[:: max(1, flat.numel() // SAMPLES)].to(torch.float64))
    if samples:
        whole.update(torch.cat(samples).cpu().numpy().tobytes())
    return whole.hexdigest()
