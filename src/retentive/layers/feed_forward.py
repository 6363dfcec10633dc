"""The feed-forward layer: two projections around an activation, gated on request (GLU, arXiv:2002.05202)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from retentive.config_types import check_types
from retentive.layers.bound import Apply, bind_linear, may_overwrite
from retentive.layers.projection import project
from retentive.ops.activation import Activation, activation_backward
from retentive.ops.gated import gated
from retentive.shapes import Hidden

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
    "relu": nn.functional.relu,
}

IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": partial(nn.functional.silu, inplace=True),
    "relu": partial(nn.functional.relu, inplace=True),
}


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
        """Refuse what cannot be."""
        check_types(self)
        if self.intermediate_size < 1:
            raise ValueError(f"intermediate_size must be at least 1 channel, but is {self.intermediate_size}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, but is {self.activation!r}.")


class FeedForward(nn.Module):
    """``output(activation(input(x)))``, or ``output(activation(a) * b)`` with ``a, b = input(x)`` where gated."""

    def __init__(self, config: FeedForwardConfig) -> None:
        """Make the two projections."""
        super().__init__()
        self.config = config
        branches = 2 if config.gated else 1
        self.input_proj = nn.Linear(config.hidden_size, branches * config.intermediate_size, bias=config.bias)
        self.output_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Hidden) -> Hidden:
        """Apply the layer to every token by itself."""
        inner = self.input_proj(x)
        if self.config.gated and torch.is_grad_enabled():
            return self.output_proj(gated(inner, self.config.activation))
        if self.config.gated:
            activated, linear = inner.chunk(2, dim=-1)
            return self.output_proj(self._activate(activated) * linear)
        if torch.is_grad_enabled():
            return project(
                self.output_proj,
                self.activation,
                inner,
                partial(activation_backward, activation=self.config.activation),
            )
        return self.output_proj(self._activate(inner))

    def bound(self) -> Apply:
        """`forward` over the present parameters; see `retentive.layers.bound`."""
        read, write = bind_linear(self.input_proj), bind_linear(self.output_proj)
        activate = IN_PLACE.get(self.config.activation, self.activation)
        if not self.config.gated:
            return lambda x: write(activate(read(x)))

        def apply(x: Tensor) -> Tensor:
            activated, linear = read(x).chunk(2, dim=-1)
            return write(activate(activated) * linear)

        return apply

    def _activate(self, inner: Hidden) -> Hidden:
        """The activation, over the memory of ``inner`` where no gradient needs it."""
        if may_overwrite(self.input_proj):
            return IN_PLACE.get(self.config.activation, self.activation)(inner)
        return self.activation(inner)
