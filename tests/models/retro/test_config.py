"""Configs of RETRO: the paper's sizes, what is refused, and what a call is refused."""

import pytest
import torch

from laws.families import random_tokens
from models.retro.small import RETNET, random_neighbours, small_backbone, small_config, small_retro
from retentive.errors import MismatchError
from retentive.models.registry import build, config_class, config_to_dict
from retentive.models.retro import retro_1_5b, retro_7_5b, retro_172m, retro_425m, retro_over, retro_small, retro_tiny
from retentive.models.retro.given import check_neighbours
from without_hook import assert_refused


def parameters(config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def without_embeddings(config) -> int:
    hidden, vocab = config.hidden_size, config.vocab_size
    tables = 2 * hidden + config.encoder_hidden_size  # the decoder's, its head, the encoder's
    return parameters(config) - vocab * tables


@pytest.mark.parametrize(
    ("preset", "millions"), [(retro_172m, 172), (retro_425m, 425), (retro_1_5b, 1451), (retro_7_5b, 7532)]
)
def test_the_papers_sizes(preset, millions: int):
    config = preset()
    backbone, encoder = config.backbone, config.encoder_attention
    # The paper's relative positions project as many channels as keys have; rotation has no parameters.
    inner = backbone.num_heads * backbone.head_dim
    relative = backbone.num_layers * config.hidden_size * inner
    relative += len(config.cross_layers) * config.hidden_size * inner
    relative += 3 * config.encoder_hidden_size * encoder.num_heads * encoder.head_dim
    assert abs((without_embeddings(config) + relative) / 1e6 - millions) < 0.6
    assert config.cross_layers[:3] == (6, 9, 12)


def test_small_sizes():
    assert parameters(retro_tiny()) < 1.6e6
    assert 12e6 < parameters(retro_small()) < 18e6
    assert retro_small().backbone.family == "retnet"


IMPOSSIBLE = [
    ({"chunk_size": 0}, "chunk_size must be at least 1, but is 0"),
    ({"cross_layers": ()}, "cross_layers must name at least one layer"),
    ({"cross_layers": (3, 2)}, r"different layers of the backbone in ascending order, from 1 to 3, but are \(3, 2\)"),
    ({"cross_layers": (4,)}, r"cross_layers must .*, from 1 to 3, but are \(4,\); give cross_layers of the backbone"),
    ({"encoder_cross_layers": (0,)}, r"encoder_cross_layers must be .* the encoder .*, from 1 to 2, but are \(0,\)"),
    ({"encoder_num_layers": 0}, "encoder_num_layers must be at least 1, but is 0"),
    ({"encoder_num_heads": 0}, "encoder_num_heads must be at least 1, but is 0"),
    ({"encoder_num_heads": 5}, "12 / 5 is not whole; change one, or give encoder_head_dim"),
    ({"cross_num_heads": 3}, "16 / 3 is not whole; change one, or give cross_head_dim"),
    ({"cross_num_heads": 0}, "cross_num_heads must be at least 1, but is 0"),
    ({"cross_head_dim": 3}, "even number of channels in a head, but key_dim is 3"),
    ({"chunk_offset": -1}, "chunk_offset must be at least 0, but is -1"),
    ({"cross_dropout": 1.0}, "cross_dropout must be at least 0 and below 1, but is 1.0"),
    ({"norm": "batch"}, "norm must be 'rms_norm', 'layer_norm' or 'gated_rms_norm', but is 'batch'"),
    ({"residual": "none"}, "residual must be 'pre_norm' or 'deepnorm', but is 'none'"),
    ({"norm_epsilon": 0.0}, "epsilon must be above 0, but is 0.0"),
]


def test_impossible_configs_are_refused_when_made():
    possible = config_to_dict(small_config())
    calls = [
        ("retentive.models.registry:config_from_dict", {"values": {**possible, **changes}}) for changes, _ in IMPOSSIBLE
    ]
    assert_refused(calls, [pattern for *_, pattern in IMPOSSIBLE])


def test_the_backbone_is_a_plain_decoder():
    memory = config_class("rmt")(backbone=small_backbone(), segment_length=5, num_memory_tokens=2)
    for backbone in (memory, small_config()):
        with pytest.raises(
            ValueError, match=f"backbone must be a plain decoder's config, .* not a {backbone.family}'s"
        ):
            small_config(backbone=backbone)


def test_the_residual_of_the_backbone_is_not_overruled_silently():
    backbone = config_class("retnet")(vocab_size=9, hidden_size=8, num_layers=1, num_heads=1, residual="deepnorm")
    with pytest.raises(
        ValueError, match="residual must be 'deepnorm', as of the backbone, but is 'pre_norm'; it decides"
    ):
        small_config(backbone=backbone, cross_layers=(1,))
    assert small_config(backbone=backbone, cross_layers=(1,), residual="deepnorm").decoder == backbone.decoder
    assert retro_over(backbone).residual == "deepnorm"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbours": torch.zeros(3, 2, 1, 8).long()}, "one row for each row of tokens, 2, but have 3"),
        ({"neighbours": torch.zeros(2, 1, 1, 8).long()}, "of the 2 chunks of 4 tokens that end in this call, .* of 1;"),
        ({"neighbours": torch.zeros(2, 3, 1, 8).long()}, r"but are of 3; model.ended_chunks\(tokens, state\)"),
        (
            {"neighbours": torch.zeros(2, 2, 1, 3).long()},
            "at least as long as a chunk, 4 tokens, but they have 3; fill",
        ),
        ({"neighbours": torch.zeros(2, 8).long()}, r"must be \(batch, chunks, k, length\), .* have shape \(2, 8\)"),
        ({"neighbours": torch.zeros(2, 2, 8)}, r"must be integer ids \(int64 or int32\), but are torch.float32"),
        (
            {"neighbours": torch.zeros(2, 2, 8).long(), "neighbour_mask": torch.ones(2, 2, 4) > 0},
            r"of the shape of neighbours, \(2, 2, 8\), but is torch.bool of \(2, 2, 4\)",
        ),
    ],
)
def test_neighbours_that_do_not_fit_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        check_neighbours(**{"neighbour_mask": None, "batch": 2, "num_ended": 2, "chunk_size": 4, **changes})


def test_a_call_is_refused_what_it_cannot_read():
    model = small_retro()
    tokens, neighbours = random_tokens(2, 9), random_neighbours(2, 2)
    with pytest.raises(ValueError, match="neighbours must be of the 2 chunks"):
        model(tokens, neighbours=neighbours[:, :1])
    state = model(tokens[:, :6], neighbours=neighbours[:, :1]).state
    with pytest.raises(ValueError, match="neighbours must be of the 0 chunks"):
        model(tokens[:, :1], state, neighbours=neighbours[:, :1])
    with pytest.raises(ValueError, match="neighbour_mask must come with neighbours"):
        model(tokens, neighbour_mask=neighbours > 0)
    for wrong in (23, -2):
        other = neighbours.clone()
        other[0, 1, 0, 0] = wrong
        with pytest.raises(ValueError, match=rf"token id of neighbours must be from 0 .* = 22, or -1 .* them {wrong};"):
            model(tokens, neighbours=other)
    learned = small_retro(backbone=small_backbone(positions="learned", max_positions=8))
    with pytest.raises(ValueError, match=r"positions - 1 = 7, but 1 are outside, the first of them 8; read shorter"):
        learned(tokens, neighbours=neighbours)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_call_is_refused_what_is_no_tensor_or_stands_elsewhere():
    model, tokens, neighbours = small_retro(), random_tokens(2, 9), random_neighbours(2, 2)
    with pytest.raises(TypeError, match=r"but is a Tensor; neighbours go by name, model\(tokens, neighbours=\.\.\.\)"):
        model(tokens, neighbours)
    with pytest.raises(TypeError, match=r"neighbours must be a tensor, but is a list; give torch.tensor\(neighbours\)"):
        model(tokens, neighbours=neighbours.tolist())
    with pytest.raises(TypeError, match="neighbour_mask must be a tensor, but is a list"):
        model(tokens, neighbours=neighbours, neighbour_mask=(neighbours >= 0).tolist())


def test_states_of_other_models_are_refused():
    model = small_retro()
    tokens = random_tokens(2, 9)
    for other, message in (
        (small_retro(cross_layers=(2,)), "layers that read neighbours: 1, the model's: 2"),
        (small_retro(backbone=RETNET), r"layers\[0\]: .'retention', 2, 8, 16., the model's: .'keys'"),
        (small_retro(chunk_size=8), "must remember fewer tokens than a chunk, 4, but has 7"),
        (small_retro(cross_num_heads=2), "heads and channels of neighbours"),
        (build(small_backbone()).double(), "must be the RetroState of a RETRO, but is a ModelState; take it"),
    ):
        with pytest.raises(MismatchError, match=message):
            model(tokens, other(tokens).state)
