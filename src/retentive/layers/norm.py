"""Normalisation: LayerNorm (Ba et al. 2016, arXiv:1607.06450) and RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_count, check_kind, check_types
from retentive.layers.parameters.derived import derived
from retentive.ops.rms_norm import rms_norm, rms_norm_of_length

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
        """Validate the fields."""
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
        check_count("size", size, unit="channel")
        check_kind("config", config, NormConfig)
        super().__init__()
        self.config = config
        self.size = size
        self.weight = nn.Parameter(torch.empty(size)) if config.affine else None
        self.bias = nn.Parameter(torch.empty(size)) if config.affine and config.kind == "layer_norm" else None
        self.gate = nn.Parameter(torch.empty(size)) if config.kind == "gated_rms_norm" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to the identity scale."""
        for ones in (self.weight, self.gate):
            if ones is not None:
                nn.init.ones_(ones)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @derived
    def length_scale(self) -> tuple[Tensor, Tensor] | None:
        """What `rms_norm_of_length` needs, made of the weight; None where it does not give what `forward` gives."""
        if self.config.kind != "rms_norm":
            return None
        like = torch.empty(0) if self.weight is None else self.weight.detach()
        if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.float64):
            return None
        least = like.new_tensor((self.size * self.config.epsilon) ** 0.5)
        root = like.new_tensor(self.size**0.5)
        return (root if self.weight is None else like * root), least

    def forward(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Return the normalised channels, in the dtype of ``x``."""
        # Only an engine's view of this norm holds the value; computing it for each call would save nothing.
        found = self.__dict__.get("length_scale")
        if found is not None and x.dtype is found[1].dtype:
            return rms_norm_of_length(x, *found)
        weight, bias = self.weight, self.bias
        if weight is not None and weight.dtype is torch.float16 and x.dtype is torch.float32:
            weight, bias = weight.float(), None if bias is None else bias.float()
        if self.config.kind == "layer_norm":
            return nn.functional.layer_norm(x, (self.size,), weight, bias, self.config.epsilon)
        normed = rms_norm(x, weight, self.config.epsilon)
        return normed if self.gate is None else normed * (self.gate * x).sigmoid()

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.size}, kind={self.config.kind}, epsilon={self.config.epsilon}, affine={self.config.affine}"
