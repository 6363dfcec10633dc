"""How layers project what they can make again."""

from torch import Tensor, nn

from retentive.layers.bound import is_observed
from retentive.ops.lean_linear import Back, Make, lean_linear


def project(module: nn.Module, make: Make, source: Tensor, back: Back | None = None) -> Tensor:
    """``module(make(source))``, with less kept for the gradient where ``module`` is a weight and a bias and no more.

    See `retentive.ops.lean_linear` for ``back``.
    """
    if type(module) is not nn.Linear or is_observed(module):
        return module(make(source))
    return lean_linear(make, source, module.weight, module.bias, back)


def side_by_side(heads: Tensor) -> Tensor:
    """``(batch, heads, time, dim)`` as ``(batch, time, heads * dim)``."""
    return heads.transpose(1, 2).flatten(2)
