"""An adapter in place of a projection is asked, not looked through."""

import pytest
import torch
from torch import Tensor, nn

from retentive.layers.batch_layout import RotaryConfig
from retentive.layers.cross_attention import CrossAttention, CrossAttentionConfig


class Adapter(nn.Module):
    """What an adapter shows: its base's weight; and what it does: more than that."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.base(x)


@pytest.mark.parametrize("rotary", [None, RotaryConfig(dim=4)])
def test_an_adapter_does_all_of_its_work(rotary: RotaryConfig | None):
    torch.manual_seed(0)
    config = CrossAttentionConfig(hidden_size=6, memory_size=5, num_heads=2, head_dim=4, rotary=rotary)
    layer, places = CrossAttention(config).double(), torch.arange(3)[None]
    x, memory = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    plain = (layer.query(x, places, 3), *layer.key_value(memory, places, 3))
    layer.query_proj, layer.key_value_proj = Adapter(layer.query_proj), Adapter(layer.key_value_proj)
    adapted = (layer.query(x, places, 3), *layer.key_value(memory, places, 3))
    for one, other in zip(adapted, plain, strict=True):
        torch.testing.assert_close(one, 3 * other, rtol=0, atol=1e-12)
