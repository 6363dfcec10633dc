"""The functions between the two projections of a feed-forward layer, and their slopes in place."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

Activation = Literal["swish", "gelu", "gelu_tanh", "relu"]


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The activation of every number."""
    if activation == "swish":
        return silu(x)
    if activation == "relu":
        return x.relu()
    return gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def activation_backward(grad: Tensor, x: Tensor, activation: Activation) -> None:
    """Turn the gradient of an activation's output into that of its input ``x``, in place."""
    aten = torch.ops.aten
    if activation == "swish":
        aten.silu_backward.grad_input(grad, x, grad_input=grad)
    elif activation == "relu":
        aten.threshold_backward.grad_input(grad, x, 0, grad_input=grad)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        aten.gelu_backward.grad_input(grad, x, approximate=approximate, grad_input=grad)
