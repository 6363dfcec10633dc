"""Derivatives of what stands between a feed-forward layer's projections, written where the caller says."""

import torch
from torch import Tensor

from retentive.ops.activation import ACTIVATIONS, Activation


def activation_backward(grad: Tensor, x: Tensor, into: Tensor, activation: Activation) -> None:
    """Write the gradient of an activation's input ``x``, given that of its output, which ``into`` may be."""
    aten = torch.ops.aten
    if activation == "swish":
        aten.silu_backward.grad_input(grad, x, grad_input=into)
    elif activation == "relu":
        aten.threshold_backward.grad_input(grad, x, 0, grad_input=into)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        aten.gelu_backward.grad_input(grad, x, approximate=approximate, grad_input=into)


def gate_backward(grad: Tensor, x: Tensor, into: Tensor, activation: Activation) -> None:
    """Write the gradient of ``x``, two branches side by side, given that of ``activation(first) * second``."""
    (first, second), (d_first, d_second) = x.chunk(2, -1), into.chunk(2, -1)
    torch.mul(grad, ACTIVATIONS[activation](first), out=d_second)
    torch.mul(grad, second, out=d_first)
    activation_backward(d_first, first, d_first, activation)
