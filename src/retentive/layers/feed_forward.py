"""The feed-forward layer: two projections around an activation, gated on request (GLU, arXiv:2002.05202)."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_kind, check_types
from retentive.layers.projection import project
from retentive.ops.activation import ACTIVATIONS, Activation
from retentive.ops.lean.activations import activation_backward, gate_backward
from retentive.shapes import HiddenRows


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardConfig:
    """Shape of a feed-forward layer.

    Attributes:
        hidden_size: Width of the residual stream.
        intermediate_size: Width between the two projections.
        activation: Function between them.
        gated: Multiply the activated branch by a second, linear branch (GLU).
        bias: Whether the projections have biases.
    """

    hidden_size: int
    intermediate_size: int
    activation: Activation = "gelu"
    gated: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.intermediate_size < 1:
            raise ValueError(f"intermediate_size must be at least 1 channel, but is {self.intermediate_size}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, but is {self.activation!r}.")


class FeedForward(nn.Module):
    """``output(activation(input(x)))``, or ``output(activation(a) * b)`` with ``a, b = input(x)`` where gated."""

    def __init__(self, config: FeedForwardConfig) -> None:
        """Make the two projections."""
        check_kind("config", config, FeedForwardConfig)
        super().__init__()
        self.config = config
        branches = 2 if config.gated else 1
        self.input_proj = nn.Linear(config.hidden_size, branches * config.intermediate_size, bias=config.bias)
        self.output_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: HiddenRows) -> HiddenRows:
        """Apply the layer to every token by itself."""
        inner = self.input_proj(x)
        # Of another function in its place, the derivative is not known.
        is_own = self.activation is ACTIVATIONS[self.config.activation]
        # Where the second projection learns, computing a gate again would take 3 to 5% of a training step.
        if not torch.is_grad_enabled() or not is_own or (self.config.gated and self._learns()):
            return self.output_proj(self._between(inner))
        backward = gate_backward if self.config.gated else activation_backward
        return project(self.output_proj, self._between, inner, partial(backward, activation=self.config.activation))

    def _learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.output_proj.parameters())

    def _between(self, inner: Float[Tensor, "*tokens branches"]) -> Float[Tensor, "*tokens intermediate"]:
        """What stands between the projections."""
        if not self.config.gated:
            return self.activation(inner)
        activated, linear = inner.chunk(2, dim=-1)
        return self.activation(activated) * linear
