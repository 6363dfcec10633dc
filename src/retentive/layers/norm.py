"""Normalisation: LayerNorm (Ba et al. 2016, arXiv:1607.06450) and RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.ops.rms_norm import rms_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class NormConfig:
    """How a layer is normalised.

    Attributes:
        kind: ``rms_norm`` divides by the root of the mean square, ``layer_norm`` subtracts the mean first.
        epsilon: Added to the mean square, or the variance, before the root.
        affine: Whether there is a learned weight per channel (and a learned bias, for ``layer_norm``).
    """

    kind: Literal["rms_norm", "layer_norm"] = "rms_norm"
    epsilon: float = 1e-6
    affine: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.kind not in ("rms_norm", "layer_norm"):
            raise ValueError(f"kind of norm must be 'rms_norm' or 'layer_norm', but is {self.kind!r}.")
        if not self.epsilon > 0:
            raise ValueError(f"norm epsilon must be above 0, but is {self.epsilon}.")


class Norm(nn.Module):
    """Normalise the last dimension, of ``size`` channels."""

    def __init__(self, size: int, config: NormConfig) -> None:
        """Start at the identity scale."""
        super().__init__()
        self.config = config
        self.size = size
        self.weight = nn.Parameter(torch.ones(size)) if config.affine else None
        self.bias = nn.Parameter(torch.zeros(size)) if config.affine and config.kind == "layer_norm" else None

    def forward(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Return the normalised channels, in the dtype of ``x``."""
        if self.config.kind == "layer_norm":
            return nn.functional.layer_norm(x, (self.size,), self.weight, self.bias, self.config.epsilon)
        return rms_norm(x, self.weight, self.config.epsilon)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.size}, kind={self.config.kind}, epsilon={self.config.epsilon}, affine={self.config.affine}"
