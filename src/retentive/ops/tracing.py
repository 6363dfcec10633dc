"""Calls that something else follows, and gradients that can be differentiated in turn.

The library's own backward passes write over memory and give first derivatives. Compilers, `torch.func` and forward-mode
differentiation need plain operations, as does whoever differentiates a gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from retentive.private_apis import is_forward_differentiated, is_functionally_transformed


def is_traced() -> bool:
    """Whether a compiler, `torch.func` or forward-mode differentiation follows this call."""
    return torch.compiler.is_compiling() or is_functionally_transformed() or is_forward_differentiated()


def is_transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation follows this call; False in compiled code."""
    return not torch.compiler.is_compiling() and (is_functionally_transformed() or is_forward_differentiated())


def differentiable_gradients(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients of a function of plain operations, computed anew, which can be differentiated in turn.

    Args:
        function: Returns the outputs of the operation that is differentiated.
        inputs: Its arguments, with their graphs.
        gradients: Of the outputs; None is 0.
    """
    with torch.enable_grad():
        # Aliases: one input may have been computed from another, and that way is not this function's.
        inputs = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        outputs = function(*inputs)
    asked = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if gradient is not None]
    wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    found: Any = torch.autograd.grad(
        [output for output, _ in asked],
        wanted,
        [gradient for _, gradient in asked],
        create_graph=True,
        allow_unused=True,
    )
    each = iter(found)
    return tuple(None if tensor is None or not tensor.requires_grad else next(each) for tensor in inputs)
