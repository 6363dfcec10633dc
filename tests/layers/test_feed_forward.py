"""A feed-forward layer keeps what its first projection gives, and what follows only where a gate learns."""

import pytest
import torch
from torch import Tensor

from retentive.layers.feed_forward import FeedForward, FeedForwardConfig
from retentive.ops.activation import ACTIVATIONS


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("learns", [False, True])
def test_of_a_token_the_inner_channels_alone_are_kept(gated: bool, learns: bool):
    torch.manual_seed(0)
    config = FeedForwardConfig(hidden_size=4, intermediate_size=6, activation="swish", gated=gated)
    layer = FeedForward(config).double().requires_grad_(learns)
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = layer(x)
    weights = {weight.data_ptr() for weight in layer.parameters()}
    widths = [tensor.shape[-1] for tensor in kept if tensor.data_ptr() not in weights]
    inputs = [4] if learns else []
    if not (gated and learns):  # the gate is computed again where its weights are frozen
        assert sorted(widths) == sorted([12 if gated else 6, *inputs])
    inner = x @ layer.input_proj.weight.T
    between = ACTIVATIONS["swish"](inner[..., :6])
    expected = (between * inner[..., 6:] if gated else between) @ layer.output_proj.weight.T
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-14)
    slope = torch.randn_like(x)
    leaves = [x, *(layer.parameters() if learns else ())]
    for ours, theirs in zip(
        torch.autograd.grad(output, leaves, slope), torch.autograd.grad(expected, leaves, slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
