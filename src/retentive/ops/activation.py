"""The functions between the two projections of a feed-forward layer, and around a gate."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn.functional import gelu, relu, silu

Activation = Literal["swish", "gelu", "gelu_tanh", "relu"]


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its approximation with a hyperbolic tangent: a function, so that a copied layer has the same one."""
    return gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
}
"""Each activation by its name in a config."""
