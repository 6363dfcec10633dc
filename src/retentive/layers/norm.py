"""Normalisation: LayerNorm (Ba et al. 2016, arXiv:1607.06450) and RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_types
from retentive.ops.rms_norm import bind_rms_norm, rms_norm

NormKind = Literal["rms_norm", "layer_norm", "gated_rms_norm"]
KINDS = ("rms_norm", "layer_norm", "gated_rms_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormConfig:
    """How a layer is normalised.

    Attributes:
        kind: ``rms_norm`` divides by the root of the mean square, ``layer_norm`` subtracts the mean first,
            ``gated_rms_norm`` multiplies RMSNorm's result by ``sigmoid(gate * x)``, with a learned gate a channel.
        epsilon: Added to the mean square, or the variance, before the root.
        affine: Whether there is a learned weight per channel (and a learned bias, for ``layer_norm``).
    """

    kind: NormKind = "rms_norm"
    epsilon: float = 1e-6
    affine: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_types(self)
        if self.kind not in KINDS:
            raise ValueError(f"kind of norm must be one of {', '.join(KINDS)}, but is {self.kind!r}.")
        if self.kind == "gated_rms_norm" and not self.affine:
            raise ValueError("affine must be True for a gated_rms_norm, whose gate is learned.")
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
        self.gate = nn.Parameter(torch.ones(size)) if config.kind == "gated_rms_norm" else None

    def forward(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Return the normalised channels, in the dtype of ``x``."""
        weight, bias = self.weight, self.bias
        if weight is not None and x.dtype is torch.float32 and weight.dtype is torch.float16:
            weight, bias = weight.float(), None if bias is None else bias.float()
        if self.config.kind == "layer_norm":
            return nn.functional.layer_norm(x, (self.size,), weight, bias, self.config.epsilon)
        normed = rms_norm(x, weight, self.config.epsilon)
        return normed if self.gate is None else normed * (self.gate * x).sigmoid()

    def bound(self) -> Callable[[Tensor], Tensor]:
        """`forward` over the present parameters; see `retentive.layers.bound`."""
        if self.config.kind == "rms_norm":
            return bind_rms_norm(self.weight, self.size, self.config.epsilon)
        if self.config.kind != "layer_norm" or (self.weight is not None and self.weight.dtype is torch.float16):
            return self.forward
        shape, weight, bias, epsilon = (self.size,), self.weight, self.bias, self.config.epsilon
        return lambda x: torch.layer_norm(x, shape, weight, bias, epsilon)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.size}, kind={self.config.kind}, epsilon={self.config.epsilon}, affine={self.config.affine}"
