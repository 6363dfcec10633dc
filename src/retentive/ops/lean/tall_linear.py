"""A projection to very many channels, such as a vocabulary."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from retentive.ops.tracing import is_traced


def tall_linear(
    x: Float[Tensor, "*tokens inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, "outputs"] | None,
) -> Float[Tensor, "*tokens outputs"]:
    """``linear(x, weight, bias)``, for a weight of many more rows than ``x`` has.

    With 4 to 32 rows, a CPU takes a third less time for the matrix times the rows than for the rows times the matrix.
    """
    few = x.dim() == 2 and x.device.type == "cpu" and 4 <= x.shape[0] <= 32
    if not few or torch.is_grad_enabled() or is_traced():
        return linear(x, weight, bias)
    product = torch.mm(weight, x.t()).t()
    return product if bias is None else product + bias
