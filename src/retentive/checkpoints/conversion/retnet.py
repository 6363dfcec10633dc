"""RetNets of other packages: names of their tensors, and their settings as ours.

The pitfalls, each with a test: the activated branch of a gated feed-forward is ``fc1`` in torchscale and ``gate_proj``
in flash-linear-attention; their rotations pair different channels and use different frequencies; torchscale normalises
scores, which changes the epsilon of the head norm; decays in float32 end at ``1 - 2**-24``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retentive.checkpoints.conversion.key_map import Entry, KeyMap, Shapes, side
from retentive.checkpoints.conversion.settings import Settings
from retentive.errors import MismatchError
from retentive.models.protocol import FamilyConfig
from retentive.models.retnet import RetNetConfig
from retentive.ops.retention import log_decay_geometric, log_decay_linspace
from retentive.ops.rotary import rotary_frequencies

BLOCK = "decoder.blocks.{layer}."
GATED = ("inner", "inner")
HEADS = ("keys", "keys", "values", "values")
ACTIVATIONS = {"swish": "swish", "silu": "swish", "gelu": "gelu", "relu": "relu"}


def _named(prefix: str, names: tuple[str, ...], suffix: str = ".weight") -> tuple[str, ...]:
    return tuple(f"{prefix}{name}{suffix}" for name in names)


FLA = KeyMap(
    entries=(
        Entry("decoder.embedding.tokens.weight", ("model.embeddings.weight",)),
        Entry(BLOCK + "mixer_norm.weight", ("model.layers.{layer}.attn_norm.weight",)),
        Entry(
            BLOCK + "mixer.input_proj.weight",
            _named("model.layers.{layer}.attn.", ("q_proj", "k_proj", "v_proj", "g_proj")),
            rows=HEADS,
        ),
        Entry(BLOCK + "mixer.output_proj.weight", ("model.layers.{layer}.attn.o_proj.weight",)),
        Entry(BLOCK + "mixer.head_norm.weight", ("model.layers.{layer}.attn.g_norm_swish_gate.weight",)),
        Entry(BLOCK + "mixer.head_norm.weight", ("model.layers.{layer}.attn.g_norm.weight",)),
        Entry(BLOCK + "feed_forward_norm.weight", ("model.layers.{layer}.mlp_norm.weight",)),
        Entry(
            BLOCK + "feed_forward.input_proj.weight",
            _named("model.layers.{layer}.mlp.", ("gate_proj", "up_proj")),
            rows=GATED,
        ),
        # Before 2025-02-09 the two were one tensor, in this order, under the name of the first.
        Entry(BLOCK + "feed_forward.input_proj.weight", ("model.layers.{layer}.mlp.gate_proj.weight",)),
        Entry(BLOCK + "feed_forward.output_proj.weight", ("model.layers.{layer}.mlp.down_proj.weight",)),
        Entry("decoder.norm.weight", ("model.norm.weight",)),
        Entry("decoder.head.weight", ("lm_head.weight",)),
    ),
    copies=(("lm_head.weight", "model.embeddings.weight"),),
)
"""flash-linear-attention."""


def _torchscale(head: str) -> KeyMap:
    return KeyMap(
        entries=(
            Entry("decoder.embedding.tokens.weight", ("embed_tokens.weight",)),
            Entry("decoder.embedding.norm.weight", ("layernorm_embedding.weight",)),
            Entry(BLOCK + "mixer_norm.weight", ("layers.{layer}.retention_layer_norm.weight",)),
            Entry(
                BLOCK + "mixer.input_proj.weight",
                _named("layers.{layer}.retention.", ("q_proj", "k_proj", "v_proj", "g_proj")),
                rows=HEADS,
            ),
            Entry(BLOCK + "mixer.output_proj.weight", ("layers.{layer}.retention.out_proj.weight",)),
            Entry(BLOCK + "feed_forward_norm.weight", ("layers.{layer}.final_layer_norm.weight",)),
            Entry(BLOCK + "feed_forward.input_proj.weight", _named("layers.{layer}.ffn.", ("fc1", "gate")), rows=GATED),
            Entry(BLOCK + "feed_forward.output_proj.weight", ("layers.{layer}.ffn.fc2.weight",)),
            Entry("decoder.norm.weight", ("layer_norm.weight",)),
            Entry("decoder.head.weight", (head,)),
        ),
        derived=("retnet_rel_pos.angle", "retnet_rel_pos.decay"),
        copies=((head, "embed_tokens.weight"),),
        ignored=("version",),  # fairseq keeps the version of its format as a tensor
    )


TORCHSCALE = _torchscale("output_projection.weight")
"""Microsoft's torchscale, since its RetNet lost its biases (2023-09-28)."""

SYNCDOTH = _torchscale("lm_head.weight")
"""syncdoth/RetNet: the same under ``model.``, with another head."""


def _yet_another_retnet(kind: str) -> tuple[Entry, ...]:
    layer = "decoder.layers.{layer}."
    return (
        Entry(BLOCK + f"mixer_norm.{kind}", (f"{layer}norm1.{kind}",)),
        Entry(
            BLOCK + f"mixer.input_proj.{kind}",
            _named(f"{layer}retention.", ("q_proj", "k_proj", "v_proj", "g_proj"), f".{kind}"),
            rows=HEADS,
        ),
        Entry(BLOCK + f"mixer.output_proj.{kind}", (f"{layer}retention.out_proj.{kind}",)),
        Entry(BLOCK + f"feed_forward_norm.{kind}", (f"{layer}norm2.{kind}",)),
        Entry(BLOCK + f"feed_forward.input_proj.{kind}", (f"{layer}linear1.{kind}",)),
        Entry(BLOCK + f"feed_forward.output_proj.{kind}", (f"{layer}linear2.{kind}",)),
        Entry(f"decoder.head.{kind}", (f"out.{kind}",)),
    )


YET_ANOTHER_RETNET = KeyMap(
    entries=(
        Entry("decoder.embedding.tokens.weight", ("embedding.weight",)),
        *_yet_another_retnet("weight"),
        *_yet_another_retnet("bias"),
    ),
    derived=("decoder.layers.{layer}.retention.thetas",),
)
"""yet-another-retnet."""


_SHARED = {
    "family": "retnet",
    "gated": True,
    "norm": "rms_norm",
    "head_norm": "rms_norm",
    "relative_position": True,
    "rotary_base": 10000.0,
    "max_positions": None,
}
FLA_FIXED = _SHARED | {
    "activation": "swish",
    "gate": "swish",
    "normalise_scores": False,
    "residual": "pre_norm",
    "rotary_frequencies": "standard",
    "rotary_pairs": "half",
    "scale_embeddings": False,
}
TORCHSCALE_FIXED = _SHARED | {
    "gate": "swish",
    "head_norm_affine": False,
    "normalise_scores": True,
    "rotary_frequencies": "retnet",
    "rotary_pairs": "interleaved",
}
YET_ANOTHER_RETNET_FIXED = _SHARED | {
    "gated": False,
    "norm": "layer_norm",
    "head_norm": "layer_norm",
    "head_norm_affine": False,
    "normalise_scores": False,
    "residual": "pre_norm",
    "rotary_frequencies": "retnet",
    "rotary_pairs": "interleaved",
    "scale_embeddings": False,
}
"""Options that have one value in all models of a package."""


def fla_config(settings: Settings, shapes: Shapes) -> RetNetConfig:
    """Ours from flash-linear-attention's settings."""
    absent = "there is nothing like it here"
    for name in ("feature_map", "attn", "attnres_block_size"):
        settings.only(name, None, absent)
    settings.only("use_output_gate", True, absent)
    table = "model.embeddings.weight"
    hidden = settings.number("hidden_size", side(shapes, table, 1), table)
    heads = settings.get("num_heads", 8)
    if settings.get("num_kv_heads", None) is not None:
        settings.only("num_kv_heads", heads, "every head here has keys and values of its own")
    epsilon = settings.get("rms_norm_eps" if "rms_norm_eps" in settings else "norm_eps", 1e-6)
    # The setting use_short_conv is there, but their block never passes it on: without its tensors it means nothing.
    return RetNetConfig(
        vocab_size=settings.number("vocab_size", side(shapes, table, 0), table),
        hidden_size=hidden,
        num_layers=settings.get("num_hidden_layers", 24),
        num_heads=heads,
        key_dim=round(hidden * settings.get("expand_k", 1.0)) // heads,
        value_dim=round(hidden * settings.get("expand_v", 2.0)) // heads,
        intermediate_size=side(shapes, "model.layers.0.mlp.down_proj.weight", 1),
        activation="swish",
        gated=True,
        gate=settings.one_of("hidden_act", {"swish": "swish", "silu": "swish"}, "swish"),  # pyright: ignore[reportArgumentType]
        norm_epsilon=epsilon,
        head_norm_affine=bool(settings.get("elementwise_affine", True)),
        rotary_frequencies="standard",
        rotary_pairs="half",
        tie_embeddings=bool(settings.get("tie_word_embeddings", False)),
        **_geometric(heads),
    )


def torchscale_config(settings: Settings, shapes: Shapes) -> RetNetConfig:
    """Ours from torchscale's settings."""
    settings.only("multiway", False, "a model for several modalities is several models here")
    settings.only("moe_freq", 0, "there is no mixture of experts here")
    return _torchscale_config(
        settings,
        shapes,
        geometric=True,
        tied=bool(settings.get("share_decoder_input_output_embed", False)),
    )


def syncdoth_config(settings: Settings, shapes: Shapes) -> RetNetConfig:
    """Ours from the settings of syncdoth/RetNet."""
    settings.only("use_glu", True, "its other feed-forward has biases and a norm inside, which there is not here")
    return _torchscale_config(
        settings,
        shapes,
        geometric=not settings.get("use_lm_decay", False),
        tied=bool(settings.get("tie_word_embeddings", False)),
    )


def _torchscale_config(settings: Settings, shapes: Shapes, *, geometric: bool, tied: bool) -> RetNetConfig:
    # Biases, not missing gates, show an older version: a missing gate may be a damaged checkpoint.
    if "layers.0.retention_layer_norm.bias" in shapes or "layers.0.ffn.fc1.bias" in shapes:
        raise MismatchError(
            "source must be of a torchscale since 2023-09-28, whose feed-forward is gated and whose norms have no "
            "biases, but is older; train it on, or convert it, with the torchscale that made it."
        )
    table, values, inner = "embed_tokens.weight", "layers.0.retention.v_proj.weight", "layers.0.ffn.fc1.weight"
    vocab, hidden = side(shapes, table, 0), side(shapes, table, 1)
    heads = settings.get("decoder_retention_heads", _buffer_length(shapes, "retnet_rel_pos.decay", 3))
    deepnorm = bool(settings.get("deepnorm", False))
    settings.leave_behind("activation_dropout", 0.0, covered=0.0)
    settings.leave_behind("drop_path_rate", 0.0, covered=0.0)
    if not deepnorm and not settings.get("subln", True):
        settings.only("decoder_normalize_before", True, "norms after sums come with DeepNorm here")
    return RetNetConfig(
        vocab_size=vocab if settings.get("vocab_size", -1) == -1 else settings.number("vocab_size", vocab, table),
        hidden_size=settings.number("decoder_embed_dim", hidden, table),
        num_layers=settings.get("decoder_layers", _count_layers(shapes)),
        num_heads=heads,
        key_dim=hidden // heads,
        value_dim=settings.number("decoder_value_embed_dim", side(shapes, values, 0), values) // heads,
        intermediate_size=settings.number("decoder_ffn_embed_dim", side(shapes, inner, 0), inner),
        activation=settings.one_of("activation_fn", ACTIVATIONS, "gelu"),  # pyright: ignore[reportArgumentType]
        gated=True,
        norm_epsilon=settings.get("layernorm_eps", 1e-6),
        normalise_scores=True,
        final_norm=not deepnorm,
        residual="deepnorm" if deepnorm else "pre_norm",
        scale_embeddings=not settings.get("no_scale_embedding", True),
        embedding_norm=bool(settings.get("layernorm_embedding", False)),
        tie_embeddings=tied,
        dropout=settings.get("dropout", 0.0),
        **(_geometric(heads) if geometric else {}),
    )


def yet_another_retnet_config(settings: Settings, shapes: Shapes) -> RetNetConfig:
    """Ours from the arguments of yet-another-retnet's class, which it does not keep beside its weights."""
    settings.only("norm_first", True, "norms of what a layer writes, added without one, are not here")
    table, inner, angles = "embedding.weight", "decoder.layers.0.linear1.weight", "decoder.layers.0.retention.thetas"
    vocab, hidden = side(shapes, table, 0), side(shapes, table, 1)
    head_dim = _buffer_length(shapes, angles, 0)
    heads = settings.number("nhead", hidden // head_dim, angles) if head_dim else settings.get("nhead", 8)
    activation = settings.one_of("activation", ACTIVATIONS, "swish")
    return RetNetConfig(
        vocab_size=settings.number("num_tokens", vocab, table),
        hidden_size=settings.number("d_model", hidden, table),
        num_layers=settings.number("num_layers", _count_layers(shapes), "the number of its last layer"),
        num_heads=heads,
        value_dim=hidden // heads,
        intermediate_size=settings.number("dim_feedforward", side(shapes, inner, 0), inner),
        activation=activation,  # pyright: ignore[reportArgumentType]
        gate=activation,  # pyright: ignore[reportArgumentType]
        norm="layer_norm",
        norm_epsilon=settings.get("layer_norm_eps", 1e-6),
        head_norm="layer_norm",
        head_norm_epsilon=1e-6,  # no setting of the package reaches it
        final_norm=False,
        bias=True,
        head_bias=True,
        dropout=settings.get("dropout", 0.1),
    )


def sizes(config: FamilyConfig) -> Mapping[str, int]:
    """The sizes that `Entry.rows` names."""
    assert isinstance(config, RetNetConfig)
    retention, inner = config.retention, config.decoder.feed_forward.intermediate_size
    heads = config.num_heads
    return {"keys": heads * retention.key_dim, "values": heads * retention.value_dim, "inner": inner}


def torchscale_derived(config: FamilyConfig) -> Mapping[str, Tensor]:
    """Buffers of torchscale and syncdoth: angles of the rotation, each twice, and log-decays."""
    assert isinstance(config, RetNetConfig)
    angle = rotary_frequencies(config.retention.key_dim).float().repeat_interleave(2)
    return {"retnet_rel_pos.angle": angle, "retnet_rel_pos.decay": config.retention.log_decays.float()}


def yet_another_retnet_derived(config: FamilyConfig) -> Mapping[str, Tensor]:
    """Buffers of yet-another-retnet: angles of the rotation, each twice, in every layer."""
    assert isinstance(config, RetNetConfig)
    angle = rotary_frequencies(config.retention.key_dim).float().repeat_interleave(2)
    return {f"decoder.layers.{layer}.retention.thetas": angle for layer in range(config.num_layers)}


def geometric_decays(config: FamilyConfig) -> bool:
    """Whether heads decay as in flash-linear-attention and torchscale."""
    assert isinstance(config, RetNetConfig)
    expected = replace(config, **{"decay": "linspace", "log_decay": None, **_geometric(config.num_heads)})
    return torch.equal(config.retention.log_decays, expected.retention.log_decays)


def linspace_decays(config: FamilyConfig) -> bool:
    """Whether heads decay as in the paper and in yet-another-retnet."""
    assert isinstance(config, RetNetConfig)
    return torch.equal(config.retention.log_decays, log_decay_linspace(config.num_heads))


def _geometric(heads: int) -> dict[str, Any]:
    """The schedule ``1 - 2**(-5 - head)`` in float32, as these packages compute it: it rounds to 1 from head 20 on."""
    if heads <= 20:
        return {"decay": "geometric"}
    exact = log_decay_geometric(heads).tolist()
    return {"log_decay": tuple(rate if head < 20 else 0.0 for head, rate in enumerate(exact))}


def _buffer_length(shapes: Shapes, name: str, default: int) -> int:
    return shapes[name][0] if shapes.get(name) else default


def _count_layers(shapes: Shapes) -> int:
    parts = (name.split("layers.") for name in shapes)
    return max(int(part[1].split(".")[0]) for part in parts if len(part) == 2) + 1
