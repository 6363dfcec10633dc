"""Linear layers of a BERT-like encoder on a CPU, with their weights packed for its vector units.

`torch.nn.functional.linear` copies the bias into its output before each product, and GELU takes another pass over
memory. oneDNN, with which torch is built, does both inside the product, on weights that are reordered once;
`torch.compile` calls the same operators after many seconds of compilation. It encodes a seventh more passages a second.
"""

from typing import Any, cast

import torch
from torch import nn

from retentive.private_apis import packed_linear_operators

_SAME_LAYOUT = ("bert", "roberta", "camembert", "xlm-roberta")
"""Model types whose layers have BERT's names and whose code does not access the weights of linear layers."""

_ROWS = 1024
"""Number of rows for which oneDNN orders the weights: 16 passages of 64 tokens. Other numbers work as well."""


class PackedLinear(nn.Module):
    """A linear layer for inference, with or without GELU after it.

    Args:
        linear: The layer whose weights are taken, in float32 on a CPU.
        gelu: Whether the exact GELU is applied to the output.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool) -> None:
        super().__init__()
        with torch.no_grad():
            self._weight: torch.Tensor = _operators()[0](linear.weight.detach(), _ROWS)
        bias = cast("torch.Tensor | None", linear.bias)
        self._bias = None if bias is None else bias.detach()
        self._after = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``inputs @ weight.T + bias``, followed by GELU if ``gelu`` is True."""
        return _operators()[1](inputs, self._weight, self._bias, *self._after)


def pack_layers(network: nn.Module, model_type: str) -> None:
    """Replace the linear layers of a network by packed ones, if torch has the operators and the layout is known.

    Args:
        network: An encoder in float32 on a CPU, for inference; it is changed in place.
        model_type: ``model_type`` of its configuration.
    """
    if model_type not in _SAME_LAYOUT or not can_pack():
        return
    for module in list(network.modules()):
        activation = getattr(module, "intermediate_act_fn", None)
        fuses = activation is not None and is_exact_gelu(activation)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child, gelu=fuses and name == "dense"))
        if fuses:
            module.intermediate_act_fn = nn.Identity()


def can_pack() -> bool:
    """Whether this torch has the operators; builds without oneDNN do not."""
    return packed_linear_operators() is not None


def is_exact_gelu(activation: Any) -> bool:
    """Whether a function is GELU by the error function, not one of its approximations."""
    values = torch.linspace(-4, 4, 33)
    return torch.allclose(activation(values), nn.functional.gelu(values), atol=1e-6, rtol=0)


def _operators() -> tuple[Any, Any]:
    """See `packed_linear_operators`."""
    found = packed_linear_operators()
    assert found is not None
    return found
