"""Configs: the paper's sizes, and what is refused when made."""

import copy
import dataclasses
import re

import pytest
import torch

from laws.families import SMALL, small_model
from retentive import RetNet, RetNetConfig, Transformer, TransformerConfig
from retentive.errors import MismatchError
from retentive.models.registry import build, config_class, config_from_dict, config_to_dict
from retentive.models.retnet import retnet_1_3b, retnet_2_7b, retnet_6_7b, retnet_small, retnet_tiny
from retentive.models.transformer import transformer_small, transformer_tiny
from without_hook import assert_refused


def parameters(config) -> int:
    with torch.device("meta"):
        model = build(config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("preset", "layers", "hidden", "heads", "billions"),
    [(retnet_1_3b, 24, 2048, 8, 1.3), (retnet_2_7b, 32, 2560, 10, 2.7), (retnet_6_7b, 32, 4096, 16, 6.7)],
)
def test_the_papers_sizes(preset, layers: int, hidden: int, heads: int, billions: float):
    config = preset()
    assert (config.num_layers, config.hidden_size, config.num_heads) == (layers, hidden, heads)
    assert (config.retention.key_dim, config.retention.value_dim) == (256, 512)
    vocab, blocks, norms = config.vocab_size, 12 * layers * hidden**2, (2 * layers + 1) * hidden
    assert parameters(config) == blocks + norms + 2 * vocab * hidden
    assert round(parameters(config) / 1e9, 1) == billions


def test_the_small_sizes_of_both_families_agree():
    for retnet, transformer in ((retnet_tiny(), transformer_tiny()), (retnet_small(), transformer_small())):
        assert parameters(retnet) == parameters(transformer)
    assert parameters(retnet_tiny()) < 1e6


SIZES = {"vocab_size": 10, "hidden_size": 16, "num_layers": 1, "num_heads": 4}


IMPOSSIBLE = [
    (RetNetConfig, {"vocab_size": 0}, "vocab_size must be at least 1, but is 0"),
    (RetNetConfig, {"num_layers": 1.5}, r"num_layers must be a whole number, but is 1.5 \(float\)"),
    (RetNetConfig, {"num_layers": True}, r"num_layers must be a whole number, but is True \(bool\)"),
    (RetNetConfig, {"hidden_size": "32"}, r"hidden_size must be a whole number, but is '32' \(str\)"),
    (RetNetConfig, {"chunk_size": 2.5}, r"chunk_size must be a whole number, but is 2.5 \(float\)"),
    (RetNetConfig, {"bias": 1}, r"bias must be True or False, but is 1 \(int\)"),
    (RetNetConfig, {"rotary_base": float("inf")}, r"rotary_base must be a finite number, but is inf \(float\)"),
    (RetNetConfig, {"key_dim": 4.0}, r"key_dim must be a whole number or None, but is 4.0 \(float\)"),
    (
        RetNetConfig,
        {"log_decay": (float("nan"), -1.0, -1.0, -1.0)},
        "log_decay must be a tuple, each part a finite number or None, but is",
    ),
    (RetNetConfig, {"log_decay": -1.0}, "log_decay must be a tuple, each part a finite number or None, but is -1.0"),
    (TransformerConfig, {"window": 2.0}, r"window must be a whole number or None, but is 2.0 \(float\)"),
    (RetNetConfig, {"num_layers": 0}, "num_layers must be at least 1, but is 0"),
    (RetNetConfig, {"num_heads": 0}, "num_heads must be at least 1, but is 0"),
    (
        RetNetConfig,
        {"num_heads": 3},
        r"multiple of num_heads, but 16 / 3 is not whole; change one, or give key_dim",
    ),
    (RetNetConfig, {"key_dim": 5}, "even number of channels in a head, but key_dim is 5"),
    (RetNetConfig, {"value_dim": 0}, "value_dim must be at least 1, but is 0"),
    (RetNetConfig, {"intermediate_size": 0}, "intermediate_size must be at least 1 channel, but is 0"),
    (RetNetConfig, {"activation": "mish"}, "activation must be 'swish', 'gelu', 'gelu_tanh' or 'relu', but is 'mish'"),
    (RetNetConfig, {"norm": "batch"}, "norm must be 'rms_norm', 'layer_norm' or 'gated_rms_norm', but is 'batch'"),
    (RetNetConfig, {"norm_epsilon": 0.0}, "epsilon must be above 0, but is 0.0"),
    (RetNetConfig, {"dropout": 1.0}, "dropout must be at least 0 and below 1, but is 1.0"),
    (RetNetConfig, {"initialisation": "zeros"}, "initialisation must be 'xavier' or 'normal', but is 'zeros'"),
    (RetNetConfig, {"tie_embeddings": True, "head_bias": True}, "head_bias must be False with tie_embeddings"),
    (RetNetConfig, {"rotary_base": 1.0}, "rotary_base must be above 1, but is 1.0"),
    (RetNetConfig, {"rotary_pairs": "odd"}, "rotary_pairs must be 'interleaved' or 'half', but is 'odd'"),
    (
        RetNetConfig,
        {"rotary_frequencies": "odd"},
        "rotary_frequencies must be 'retnet' or 'standard', but is 'odd'",
    ),
    (RetNetConfig, {"max_positions": 0}, "max_positions must be at least 1 token, but is 0"),
    (RetNetConfig, {"log_decay": (-1.0,) * 4, "decay": "geometric"}, "decay means nothing beside log_decay"),
    (TransformerConfig, {"num_heads": 0}, "num_heads must be at least 1, but is 0"),
    (TransformerConfig, {"num_heads": 3}, "multiple of num_heads, but 16 / 3 is not whole"),
    (TransformerConfig, {"num_kv_heads": 3}, "num_kv_heads must divide num_heads"),
    (TransformerConfig, {"window": 0}, "window must be at least 1 token, but is 0"),
    (
        TransformerConfig,
        {"attention_dropout": -0.1},
        "attention_dropout must be at least 0 and below 1, but is -0.1",
    ),
    (TransformerConfig, {"positions": "relative"}, "positions must be 'rotary', 'learned' or 'none'"),
    (TransformerConfig, {"positions": "learned"}, "max_positions goes with positions='learned'"),
    (TransformerConfig, {"max_positions": 9}, "max_positions goes with positions='learned'"),
    (TransformerConfig, {"rotary_scaling": (2.0, 1.0)}, r"rotary_scaling must be \(factor,\) or \(factor, low, high"),
    (TransformerConfig, {"rotary_scaling": (2.0, 4.0, 1.0, 9.0)}, "positive and low below high"),
    (TransformerConfig, {"positions": "none", "rotary_base": 5.0}, "mean nothing with positions='none'"),
]


def test_impossible_configs_are_refused_when_made():
    home = {RetNetConfig: "retentive.models.retnet:RetNetConfig", TransformerConfig: "retentive:TransformerConfig"}
    calls = [(home[kind], {**SIZES, **changes}) for kind, changes, _ in IMPOSSIBLE]
    assert_refused(calls, [pattern for *_, pattern in IMPOSSIBLE])


def test_configs_are_frozen_and_have_no_default_sizes():
    for kind in (RetNetConfig, TransformerConfig):
        with pytest.raises(TypeError, match="missing"):
            kind()
        with pytest.raises(dataclasses.FrozenInstanceError):
            kind(**SIZES).hidden_size = 3


def test_a_pattern_of_one_mixer_is_that_mixers_family():
    for kind, name in ((RetNetConfig, "retention"), (TransformerConfig, "attention")):
        for changes in ({}, {"norm_epsilon": 1e-3, "rotary_base": 500.0}):
            hybrid = config_class("hybrid")(**SIZES, pattern=(name,), **changes)
            assert hybrid.decoder.mixers == kind(**SIZES, **changes).decoder.mixers


def test_the_registry_names_what_it_cannot_read():
    values = config_to_dict(RetNetConfig(**SIZES))
    assert config_from_dict(values) == RetNetConfig(**SIZES)
    with pytest.raises(MismatchError, match="RetNetConfig has no option depth"):
        config_from_dict({**values, "depth": 3})
    with pytest.raises(MismatchError, match="RetNetConfig needs hidden_size, which the config lacks"):
        config_from_dict({key: value for key, value in values.items() if key != "hidden_size"})
    with pytest.raises(MismatchError, match="must name its family, one of transformer, retnet"):
        config_from_dict(SIZES)
    with pytest.raises(ValueError, match=r"family must be one of transformer, retnet.*, but is 'resnet'"):
        config_class("resnet")


def test_a_model_prints_its_parts():
    assert "rms_norm" in repr(RetNet(RetNetConfig(**SIZES)))
    assert "Attention" in repr(Transformer(TransformerConfig(**SIZES)))


@pytest.mark.parametrize("family", SMALL)
def test_fields_of_the_config_as_arguments_are_refused_with_the_config(family: str):
    model = small_model(family)
    kind, config = type(model), type(model.config).__name__
    message = re.escape(
        f"config must be given to {kind.__name__}, and not depth, wide: {kind.__name__}({config}(depth=3,"
    )
    with pytest.raises(TypeError, match=message):
        kind(depth=3, wide=1)
    copy.deepcopy(kind(config=model.config))  # which makes one without arguments
