"""Packed linear layers compute what those do that they take the place of."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from retentive.retrieval.encoders.packed_layers import PackedLinear, can_pack, is_exact_gelu, pack_layers

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch was built without oneDNN")


def small_bert(activation: str) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=100,
        hidden_act=activation,
    )
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 1100])
def test_a_packed_layer_is_the_layer(rows: int, bias: bool, gelu: bool):
    torch.manual_seed(1)
    linear, inputs = nn.Linear(33, 20, bias=bias), torch.randn(rows, 3, 33)
    with torch.inference_mode():
        expected = nn.functional.gelu(linear(inputs)) if gelu else linear(inputs)
        torch.testing.assert_close(PackedLinear(linear, gelu=gelu)(inputs), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("activation", "fused"), [("gelu", 2), ("gelu_new", 0), ("relu", 0)])
def test_a_packed_network_is_the_network(activation: str, fused: int):
    network, ids = small_bert(activation), torch.randint(0, 50, (5, 9))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with torch.inference_mode():
        expected = network(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        pack_layers(network, "bert")
        found = network(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    kinds = [type(module) for module in network.modules()]
    assert nn.Linear not in kinds
    assert kinds.count(PackedLinear) == 12
    assert kinds.count(nn.Identity) == fused


def test_a_network_of_another_layout_stays_as_it_is():
    network = DistilBertModel(DistilBertConfig(vocab_size=50, dim=12, hidden_dim=20, n_layers=1, n_heads=2))
    before = [type(module) for module in network.modules()]
    pack_layers(network, "distilbert")
    assert [type(module) for module in network.modules()] == before


def test_only_the_exact_gelu_is_taken_for_it():
    assert is_exact_gelu(nn.GELU())
    assert not is_exact_gelu(nn.GELU(approximate="tanh"))
    assert not is_exact_gelu(nn.ReLU())
