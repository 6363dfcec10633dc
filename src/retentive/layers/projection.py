"""What stands around projections."""

from torch import Tensor, nn

from retentive.ops.lean.lean_linear import Back, Make, lean_linear
from retentive.ops.lean.plain import is_plain


def project(module: nn.Module, make: Make, source: Tensor, back: Back) -> Tensor:
    """``module(make(source))``, which saves ``source`` instead of the input where ``module`` is a plain projection.

    See `retentive.ops.lean.lean_linear` for ``back``.
    """
    if not is_plain(module):
        return module(make(source))
    return lean_linear(make, source, module.weight, module.bias, back)  # pyright: ignore[reportArgumentType]


def side_by_side(heads: Tensor) -> Tensor:
    """``(batch, heads, time, dim)`` as ``(batch, time, heads * dim)``."""
    return heads.transpose(1, 2).flatten(2)
