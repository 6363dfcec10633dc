"""Scripts of yet-another-retnet's users give what they gave, by changing the import line."""

import math

import pytest
import torch

from checkpoints.foreign import frozen
from retentive.compat.yet_another_retnet import retention as theirs
from retentive.compat.yet_another_retnet.retention import MultiScaleRetention, retention_chunkwise, retention_recurrent
from retentive.compat.yet_another_retnet.retnet import RetNet, retnet_1_3b, retnet_2_7b, retnet_6_7b
from retentive.errors import MismatchError
from without_hook import errors_of

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.mark.parametrize("activation", ["swish", "gelu"])
def test_their_weights_give_their_logits_in_every_form(activation: str):
    case = frozen(f"yet-another-retnet-{activation}-1e-06")
    model = RetNet(**case.settings).eval()
    model.load_state_dict(case.weights)
    tokens = case.tokens
    with torch.no_grad():
        torch.testing.assert_close(model.forward_parallel(tokens), case.logits["parallel"], **CLOSE)
        pieces, states = [], []
        for begin in range(0, tokens.shape[1], 7):
            piece, states = model.forward_chunkwise(tokens[:, begin : begin + 7], begin, states)
            pieces.append(piece)
        torch.testing.assert_close(torch.cat(pieces, 1), case.logits["chunkwise"], **CLOSE)
        steps, states = [], [None, None]
        for index in range(tokens.shape[1]):
            step, states = model.forward_recurrent(tokens[:, index], index, states)
            steps.append(step)
        torch.testing.assert_close(torch.stack(steps, 1), case.logits["recurrent"], **CLOSE)
    loss = model(tokens[:, :-1], tokens[:, 1:])
    expected = torch.nn.functional.cross_entropy(case.logits["parallel"][:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, expected, **CLOSE)


def test_weights_that_do_not_fit_are_named():
    case = frozen("yet-another-retnet-swish-1e-06")
    del case.weights["out.bias"]
    with pytest.raises(MismatchError, match=r"1 missing \(out.bias\)"):
        RetNet(**case.settings).load_state_dict(case.weights)
    model = RetNet(**case.settings)
    model.load_state_dict(RetNet(**case.settings).state_dict())  # our own names


def test_states_of_the_functions_are_the_sums_that_they_were():
    q, k, v = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64)
    gamma = 1 - torch.linspace(math.log(1 / 32), math.log(1 / 512), 4, dtype=torch.float64).exp()
    fading = gamma[:, None] ** torch.arange(5, -1, -1, dtype=torch.float64)
    for scale in (None, 3.0):
        expected = torch.einsum("bhtk,bhtv,ht->bhkv", k / (scale or 8**0.5), v, fading)
        _, state = retention_chunkwise(q, k, v, None, scale=scale)
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-9)
        state = None
        for time in range(6):
            _, state = retention_recurrent(q[:, :, time], k[:, :, time], v[:, :, time], state, scale=scale)
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("relative_position", [True, False])
def test_weights_are_what_the_values_are_summed_by(relative_position: bool):
    q, k, v = torch.randn(3, 2, 4, 6, 8)
    output, weights = theirs.retention_parallel(q, k, v, need_weights=True)
    torch.testing.assert_close(weights @ v, output, **CLOSE)
    assert theirs.retention_parallel(q, k, v)[1] is None
    layer = MultiScaleRetention(32, 4, relative_position=relative_position, group_norm_eps=1e-9).eval()
    x, y, z = torch.randn(3, 2, 6, 32)
    output, weights = layer.forward_parallel(x, y, z, need_weights=True)
    value = torch.nn.functional.linear(z, layer.layer.input_proj.weight[64:96]).view(2, 6, 4, 8).transpose(1, 2)
    normed = torch.nn.functional.layer_norm(weights @ value, (8,), eps=1e-9).transpose(1, 2).flatten(2)
    gate = torch.nn.functional.silu(torch.nn.functional.linear(x, layer.layer.input_proj.weight[96:]))
    expected = torch.nn.functional.linear(gate * normed, layer.layer.output_proj.weight)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_the_forms_of_the_layer_agree_and_so_do_their_states():
    layer = MultiScaleRetention(embed_dim=32, num_heads=4).eval()
    q, k, v = torch.randn(3, 1, 16, 32)
    parallel, _ = layer(q, k, v)
    steps, state = [], None
    for index in range(16):
        step, state = layer.forward_recurrent(q[:, index], k[:, index], v[:, index], index, state)
        steps.append(step)
    torch.testing.assert_close(torch.stack(steps, 1), parallel, **CLOSE)
    first, middle = layer.forward_chunkwise(q[:, :9], k[:, :9], v[:, :9], 0, None)
    rest, end = layer.forward_chunkwise(q[:, 9:], k[:, 9:], v[:, 9:], 9, middle)
    torch.testing.assert_close(torch.cat((first, rest), 1), parallel, **CLOSE)
    torch.testing.assert_close(end, state, **CLOSE)
    assert state.shape == (1, 4, 8, 8)


def test_decays_survive_half_precision_as_theirs_do_not():
    q = k = v = torch.ones(1, 8, 1, 8, dtype=torch.bfloat16)
    _, state = retention_chunkwise(q, k, v, None)
    for _ in range(20):
        _, state = retention_chunkwise(q, 0 * k, v, state)
    assert state.dtype == torch.float32
    assert state[0, -1, 0, 0] / 8**-0.5 < 0.97  # 511/512, to the 20th


@pytest.mark.parametrize(
    ("preset", "width", "layers"), [(retnet_1_3b, 2048, 24), (retnet_2_7b, 2560, 32), (retnet_6_7b, 4096, 32)]
)
def test_sizes_are_theirs(preset, width: int, layers: int):
    model = preset(num_tokens=10000, device="meta")
    blocks = layers * (9 * width**2 + 12 * width)  # five projections and two of the feed-forward, biases and norms
    assert sum(parameter.numel() for parameter in model.parameters()) == blocks + 2 * 10000 * width + 10000


def test_arguments_without_a_meaning_are_refused_by_name():
    home = "retentive.compat.yet_another_retnet"
    calls = [
        (f"{home}.retnet:RetNet", {"num_tokens": 9, "d_model": 16, "nhead": 2, "norm_first": False}),
        (f"{home}.retnet:RetNet", {"num_tokens": 9, "d_model": 16, "nhead": 3}),
        (f"{home}.retnet:RetNet", {"num_tokens": 9, "d_model": 16, "nhead": 2, "activation": "mish"}),
        (f"{home}.retention:MultiScaleRetention", {"embed_dim": 16, "num_heads": 2, "dropout": 0.1}),
        (f"{home}.retention:MultiScaleRetention", {"embed_dim": 16, "num_heads": 2, "batch_first": False}),
    ]
    messages = [
        "norm_first must be True, but is False: theirs adds",
        "d_model must be a multiple of nhead, but 16 / 3 is not whole",
        "activation must be 'swish', 'gelu' or 'relu'",
        "dropout must be 0.0, but is 0.1: drop what the layer returns",
        "batch_first must be True, but is False",
    ]
    for message, (error, found) in zip(messages, errors_of(calls), strict=True):
        assert error == "ValueError"
        assert message in found
    with pytest.raises(ValueError, match="prev_states must be one for each layer, 2, but are 1"):
        RetNet(9, 16, 2, 2).forward_recurrent(torch.zeros(1).long(), 3, [None])


def test_scores_are_those_of_what_stands_in_place_of_a_projection():
    layer, x = MultiScaleRetention(32, 4).double(), torch.randn(1, 5, 32, dtype=torch.float64)
    plain = layer(x, x, x, need_weights=True)[1]
    inner = layer.layer.input_proj
    original = inner.forward
    inner.forward = lambda read: 2 * original(read)
    torch.testing.assert_close(layer(x, x, x, need_weights=True)[1], 4 * plain, rtol=0, atol=1e-12)
