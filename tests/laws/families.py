"""A small model of every family in the registry, and what each of its options can be changed to.

A new family adds one entry to each table; the laws do the rest.
"""

import dataclasses
from typing import Any, TypeVar

import torch
from torch import nn

from retentive.models.base import DecoderModel
from retentive.models.registry import build, config_class, family_names
from seeds import seeded

VOCAB = 23
AnyModel = TypeVar("AnyModel", bound=nn.Module)

SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"vocab_size": VOCAB, "hidden_size": 16, "num_layers": 2, "num_heads": 4},
    "retnet": {"vocab_size": VOCAB, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "chunk_size": 4},
}
SMALL["hybrid"] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "pattern": ("retention", "attention"),
    "chunk_size": 4,
}
SMALL["yoco"] = {"vocab_size": VOCAB, "hidden_size": 16, "num_layers": 4, "num_heads": 4, "chunk_size": 4}
SMALL["rmt"] = {
    "backbone": config_class("transformer")(**SMALL["transformer"]),
    "segment_length": 5,
    "num_memory_tokens": 2,
}
SMALL["retro"] = {
    "backbone": config_class("transformer")(**SMALL["transformer"]),
    "chunk_size": 4,
    "cross_layers": (1, 2),
    "encoder_hidden_size": 12,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
}
"""Sizes of the models that the laws run on: every mechanism inside, milliseconds a call."""

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "transformer": [
        {"num_kv_heads": 2, "window": 5, "gated": True, "head_norm": True},
        {"positions": "learned", "max_positions": 64, "norm": "layer_norm", "tie_embeddings": True},
    ],
    "retnet": [
        {"value_dim": 3, "decay": "geometric", "gated": True, "norm": "layer_norm", "head_norm": "layer_norm"},
        {"relative_position": False, "max_positions": 64, "bias": True, "chunk_size": 64},
        {"normalise_scores": True, "embedding_norm": True, "residual": "deepnorm", "final_norm": False},
    ],
    "hybrid": [
        {"pattern": ("gated_retention",), "gated": True, "value_dim": 3},
        {"pattern": ("window_attention", "gated_retention", "attention"), "num_layers": 3, "window": 5},
    ],
    "yoco": [
        {"self_mixer": "retention", "self_num_heads": 2, "num_kv_heads": 2, "gated": False, "norm": "layer_norm"},
        {"self_mixer": "window_attention", "window": 5, "num_kv_heads": 2, "tie_embeddings": True, "chunk_size": 64},
    ],
    "retro": [
        {"backbone": config_class("hybrid")(**SMALL["hybrid"])},
        {"backbone": config_class("retnet")(**SMALL["retnet"]), "cross_layers": (2,), "chunk_offset": 1},
        {"residual": "deepnorm", "share_embeddings": True, "norm": "gated_rms_norm"},
    ],
    "rmt": [
        {"xl_length": 4, "xl_layer_above": True, "causal_memory": True, "token_shift": True, "write_start": "learned"},
        {"memory": "associative", "associative_dim": 4, "xl_length": 2, "xl_gradient": "states"},
        {"backbone": config_class("retnet")(**SMALL["retnet"]), "causal_memory": True, "read_first": False},
        {
            "backbone": config_class("hybrid")(**{**SMALL["hybrid"], "pattern": ("gated_retention", "attention")}),
            "causal_memory": True,
        },
    ],
}
"""Configs beside the small one that take other paths through the code."""


def _each_alone(**values: Any) -> dict[str, dict[str, Any]]:
    """A change for each option, which sets that one alone."""
    return {name: {name: value} for name, value in values.items()}


DECODERS = _each_alone(
    vocab_size=24, hidden_size=24, intermediate_size=20, activation="relu", norm_epsilon=0.1
) | _each_alone(rotary_base=100.0, tie_embeddings=True, dropout=0.5)

ALTERNATIVES: dict[str, dict[str, dict[str, Any]]] = {
    "transformer": (
        DECODERS
        | _each_alone(num_layers=3, num_heads=2, num_kv_heads=2, head_dim=6, gated=True, norm="gated_rms_norm")
        | _each_alone(final_norm=False, positions="none", rotary_frequencies="retnet", rotary_pairs="half")
        | _each_alone(rotary_scaling=(4.0,), window=3, attention_bias=True, output_bias=True)
        | _each_alone(head_norm=True)
        | _each_alone(feed_forward_bias=True, head_bias=True, scale_embeddings=True, attention_dropout=0.5)
        | _each_alone(initialisation="xavier")
        | {"max_positions": {"positions": "learned", "max_positions": 64}}
    ),
    "retnet": (
        DECODERS
        | _each_alone(num_layers=3, num_heads=4, key_dim=6, value_dim=6, gated=True, norm="layer_norm")
        | _each_alone(head_norm="layer_norm", head_norm_affine=True, head_norm_epsilon=0.1, normalise_scores=True)
        | _each_alone(residual="deepnorm", embedding_norm=True, final_norm=False, decay="geometric")
        | _each_alone(log_decay=(-0.5, -0.1), relative_position=False, rotary_frequencies="standard")
        | _each_alone(rotary_pairs="half", gate="gelu", bias=True, head_bias=True, scale_embeddings=True)
        | _each_alone(max_positions=64, initialisation="normal")
    ),
    "hybrid": (
        DECODERS
        | _each_alone(num_layers=3, num_heads=4, pattern=("gated_retention", "attention"), num_kv_heads=1)
        | _each_alone(key_dim=6, value_dim=6, gated=True, norm="gated_rms_norm", final_norm=False, mixer_bias=True)
        | _each_alone(feed_forward_bias=True, head_bias=True, attention_dropout=0.5, initialisation="normal")
        | {"window": {"pattern": ("window_attention",), "chunk_size": 64, "window": 3}}
    ),
    "yoco": (
        DECODERS
        | _each_alone(num_layers=2, num_heads=2, num_kv_heads=2, self_mixer="retention", self_num_heads=2)
        | _each_alone(gated=False, norm="gated_rms_norm", initialisation="normal")
        | {"window": {"self_mixer": "window_attention", "chunk_size": 64, "window": 3}}
    ),
    "retro": (
        _each_alone(backbone=config_class("transformer")(**{**SMALL["transformer"], "num_kv_heads": 2}))
        | _each_alone(chunk_size=3, cross_layers=(2,), encoder_hidden_size=16, encoder_num_layers=3)
        | _each_alone(encoder_num_heads=3, encoder_head_dim=4, encoder_intermediate_size=20)
        | _each_alone(encoder_cross_layers=(2,), cross_num_heads=2, cross_head_dim=6, relative_position=False)
        | _each_alone(share_embeddings=True, norm="gated_rms_norm", norm_epsilon=0.1, activation="relu")
        | _each_alone(gated=True, residual="deepnorm", encoder_dropout=0.5, encoder_attention_dropout=0.5)
        | _each_alone(cross_dropout=0.5, cross_attention_dropout=0.5, chunk_offset=2)
    ),
    "rmt": (
        _each_alone(backbone=config_class("transformer")(**{**SMALL["transformer"], "num_kv_heads": 2}))
        | _each_alone(segment_length=6, num_memory_tokens=3, bidirectional=True, causal_memory=True)
        | _each_alone(read_first=False, write_start="learned", write_gradient=False, memory_code="sign")
        | _each_alone(memory_noise=0.1, xl_length=3, token_shift=True, embedding_gradient=0.1)
        | {
            "memory": {"memory": "associative", "associative_dim": 4},
            "associative_dim": {"memory": "associative", "associative_dim": 6},
            "associative_features": {"memory": "associative", "associative_dim": 4, "associative_features": 2},
            "associative_normaliser": {
                "memory": "associative",
                "associative_dim": 4,
                "associative_normaliser": "published",
            },
            "memory_flips": {"memory_code": "sign", "memory_flips": 0.1},
            "xl_gradient": {"xl_length": 3, "xl_gradient": "states"},
            "xl_layer_above": {"xl_length": 3, "xl_layer_above": True},
        }
    ),
}
"""For every option that changes results, a change to try; `SPEED_ONLY` lists the others."""

SPEED_ONLY: dict[str, set[str]] = {
    "transformer": set(),
    "retnet": {"chunk_size"},
    "hybrid": {"chunk_size"},
    "yoco": {"chunk_size"},
    "retro": set(),
    "rmt": set(),
}
"""Options whose docstring promises that they change no result."""


def small_config(family: str, **changes: Any) -> Any:
    """The family's small config, with changes."""
    return config_class(family)(**{**SMALL[family], **changes})


def enlarged(model: AnyModel) -> AnyModel:
    """A model in eval mode, its weights large enough that every part of it shows in the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def small_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> DecoderModel:
    """A small model with weights large enough that every part of it shows in the logits."""
    torch.manual_seed(seed)
    return enlarged(build(small_config(family, **changes)).to(dtype))


_KEPT: dict[str, DecoderModel] = {}


def kept_model(family: str, **changes: Any) -> DecoderModel:
    """The same as `small_model`, made once: for tests that call it with many inputs and change nothing of it."""
    name = f"{family} {changes}"
    if name not in _KEPT:
        _KEPT[name] = small_model(family, **changes)
    return _KEPT[name]


def beside(model: DecoderModel, tokens: torch.Tensor, state: Any = None) -> dict[str, Any]:
    """What a call of a family takes beside tokens, without which some of its parameters are not used."""
    if model.config.family != "retro":
        return {}
    chunks = model.ended_chunks(tokens, state)[:, :, None]
    # The same neighbours for the same chunk, however calls are cut: one like it and one of other tokens, and more.
    return {"neighbours": torch.cat((chunks, (2 * chunks + 1) % VOCAB), 2).repeat(1, 1, 1, 2)}


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every family with every variant."""
    return [(family, changes) for family in family_names() for changes in ({}, *VARIANTS[family])]


def case_name(case: object) -> str | None:
    """How pytest names a case."""
    if isinstance(case, dict):
        return "-".join(f"{key}={getattr(value, 'family', value)}" for key, value in case.items()) or "plain"
    return None


def options(family: str) -> list[str]:
    """Every option of the family's config."""
    return [field.name for field in dataclasses.fields(config_class(family))]


def random_tokens(batch: int, time: int, seed: int = 0) -> torch.Tensor:
    """Token ids, the same for the same seed."""
    return torch.randint(0, VOCAB, (batch, time), generator=seeded(seed))
