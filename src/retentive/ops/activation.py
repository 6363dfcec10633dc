"""The functions between the two projections of a feed-forward layer, and around a gate."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor
from torch.nn.functional import gelu, relu, silu

Activation = Literal["swish", "gelu", "gelu_tanh", "relu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": silu,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
}
"""Each activation by its name in a config."""
