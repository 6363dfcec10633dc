"""Derivatives of activations, computed in place."""

import torch
from torch import Tensor

from retentive.ops.activation import Activation


def activation_backward(grad: Tensor, x: Tensor, activation: Activation) -> None:
    """Turn the gradient of an activation's output into the gradient of its input ``x``, in place."""
    aten = torch.ops.aten
    if activation == "swish":
        aten.silu_backward.grad_input(grad, x, grad_input=grad)
    elif activation == "relu":
        aten.threshold_backward.grad_input(grad, x, 0, grad_input=grad)
    else:
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        aten.gelu_backward.grad_input(grad, x, approximate=approximate, grad_input=grad)
