"""What a recurrent memory refuses to be."""

import pytest

from models.rmt.small import RETNET, small_backbone, small_config
from retentive.models.registry import build, config_from_dict, config_to_dict
from retentive.models.retro import RetroConfig
from without_hook import errors_of

READING = {
    "chunk_size": 4,
    "cross_layers": (2,),
    "encoder_hidden_size": 16,
    "encoder_num_layers": 1,
    "encoder_num_heads": 2,
}

IMPOSSIBLE = [
    ({"segment_length": 0}, "segment_length must be at least 1 token, but is 0"),
    ({"num_memory_tokens": -1}, "num_memory_tokens must be at least 0, but is -1"),
    (
        {"backbone": small_backbone(positions="learned", max_positions=4)},
        r"segment_length must be at most the learned positions of the backbone, max_positions = 4, but is 5; positions",
    ),
    (
        {"backbone": small_backbone(window=3)},
        "window must be None in the backbone, whose segments.*but is 3; use a shorter",
    ),
    ({"backbone": small_config()}, "backbone must be a plain decoder's config, such as a transformer's, not a rmt's"),
    ({"backbone": RetroConfig(backbone=small_backbone(), **READING)}, "not a retro's"),
    (
        {"backbone": RETNET},
        "a backbone with retention, or any mixer that takes no attention mask, needs bidirectional=False",
    ),
    ({"backbone": RETNET, "causal_memory": True, "xl_length": 2}, "xl_length=0 and causal_memory=True, not False, 2"),
    ({"memory": "associative"}, "associative_dim goes with memory='associative' and with nothing else.* is None"),
    ({"associative_dim": 4}, "associative_dim goes with memory='associative' and with nothing else"),
    ({"associative_features": 2}, "associative_features means nothing with memory='tokens', but is 2; leave it at 3"),
    (
        {"memory": "associative", "associative_dim": 4, "memory_code": "sign"},
        "memory_code means nothing with memory='associative', but is 'sign'; leave it at 'continuous'",
    ),
    (
        {"memory": "associative", "associative_dim": 4, "num_memory_tokens": 0},
        "num_memory_tokens must be at least 1 with memory='associative'",
    ),
    ({"memory": "associative", "associative_dim": 1}, r"must be at least 1 and below 2 \* associative_dim = 2"),
    ({"memory": "associative", "associative_dim": 0}, "associative_dim must be at least 1 channel, but is 0"),
    ({"num_memory_tokens": 0, "memory_code": "sign"}, "memory_code means nothing with num_memory_tokens=0"),
    ({"num_memory_tokens": 1, "causal_memory": True}, "causal_memory means nothing with num_memory_tokens=1"),
    ({"bidirectional": True, "write_start": "learned"}, "write_start means nothing with bidirectional=True, which has"),
    ({"bidirectional": True, "causal_memory": True}, "causal_memory means nothing with bidirectional=True"),
    ({"bidirectional": True, "memory": "associative", "associative_dim": 4}, "memory must be 'tokens' with bidirect"),
    ({"write_start": "learned", "write_gradient": False}, "write_gradient=False means nothing with write_start='learn"),
    ({"memory_flips": 0.1}, "memory_flips turn signs, so they need memory_code='sign', but it is 'continuous'"),
    ({"memory_code": "sign", "memory_flips": 0.5}, "memory_flips must be at least 0 and below 0.5, but is 0.5"),
    ({"memory_noise": -1.0}, "memory_noise must be at least 0, but is -1.0"),
    ({"memory_code": "sign", "memory_noise": 0.1}, "memory_noise needs memory_code='continuous', but it is 'sign'"),
    ({"xl_length": 6}, "xl_length must be from 0 to segment_length = 5, for one segment is remembered, but is 6"),
    ({"xl_gradient": "states"}, "xl_gradient means nothing with xl_length=0"),
    ({"xl_layer_above": True}, "xl_layer_above means nothing with xl_length=0"),
    ({"embedding_gradient": 1.5}, "embedding_gradient must be a share from 0 to 1, but is 1.5"),
    ({"backbone": small_backbone(hidden_size=15, head_dim=4), "token_shift": True}, "hidden_size must be even, but is"),
]


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE)
def test_what_cannot_be_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build(small_config(**changes))


def test_unknown_choices_are_refused():
    config = config_to_dict(small_config())
    wrong = [{"memory": "slots"}, {"write_start": "zero"}, {"memory_code": "bits"}, {"xl_gradient": True}]
    errors = errors_of(
        [("retentive.models.registry:config_from_dict", {"values": {**config, **change}}) for change in wrong]
    )
    assert errors == [
        ("ValueError", "memory must be 'tokens' or 'associative', but is 'slots'."),
        ("ValueError", "write_start must be 'memory' or 'learned', but is 'zero'."),
        ("ValueError", "memory_code must be 'continuous' or 'sign', but is 'bits'."),
        ("ValueError", "xl_gradient must be 'states', 'weights' or 'none', but is True."),
    ]


def test_a_config_with_its_backbone_survives_json():
    for backbone in (small_backbone(num_kv_heads=2), RETNET):
        config = small_config(backbone=backbone, causal_memory=True)
        written = config_to_dict(config)
        assert written["backbone"]["family"] == backbone.family
        assert config_from_dict(written) == config


def test_a_config_tells_its_vocabulary():
    assert small_config().vocab_size == 23
