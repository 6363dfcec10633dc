"""Transformers as Hugging Face keeps them: GPT-2, and Llama with those that share its layout."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from retentive.checkpoints.conversion.key_map import Entry, KeyMap, Shapes, side
from retentive.checkpoints.conversion.settings import Settings
from retentive.errors import MismatchError
from retentive.models.protocol import FamilyConfig
from retentive.models.transformer import TransformerConfig

BLOCK = "decoder.blocks.{layer}."


def _gpt2(kind: str) -> tuple[Entry, ...]:
    # GPT-2's linear layers hold inputs in rows.
    transposed = kind == "weight"
    linear = {
        "mixer.input_proj": "attn.c_attn",
        "mixer.output_proj": "attn.c_proj",
        "feed_forward.input_proj": "mlp.c_fc",
        "feed_forward.output_proj": "mlp.c_proj",
    }
    norms = {"mixer_norm": "ln_1", "feed_forward_norm": "ln_2"}
    return (
        *(Entry(f"{BLOCK}{ours}.{kind}", (f"h.{{layer}}.{theirs}.{kind}",)) for ours, theirs in norms.items()),
        *(
            Entry(f"{BLOCK}{ours}.{kind}", (f"h.{{layer}}.{theirs}.{kind}",), transposed=transposed)
            for ours, theirs in linear.items()
        ),
        Entry(f"decoder.norm.{kind}", (f"ln_f.{kind}",)),
    )


GPT2 = KeyMap(
    entries=(
        Entry("decoder.embedding.tokens.weight", ("wte.weight",)),
        Entry("decoder.embedding.positions.weight", ("wpe.weight",)),
        *_gpt2("weight"),
        *_gpt2("bias"),
        Entry("decoder.head.weight", ("lm_head.weight",)),
    ),
    copies=(("lm_head.weight", "wte.weight"),),
    ignored=(".attn.bias", ".attn.masked_bias"),  # causal masks, in old checkpoints
)
"""GPT-2 of Hugging Face."""


def _llama(kind: str) -> tuple[Entry, ...]:
    layer = "model.layers.{layer}."
    return (
        Entry(
            f"{BLOCK}mixer.input_proj.{kind}",
            tuple(f"{layer}self_attn.{name}_proj.{kind}" for name in ("q", "k", "v")),
            rows=("queries", "keys", "keys"),
        ),
        Entry(f"{BLOCK}mixer.output_proj.{kind}", (f"{layer}self_attn.o_proj.{kind}",)),
        Entry(f"{BLOCK}mixer.query_norm.{kind}", (f"{layer}self_attn.q_norm.{kind}",)),
        Entry(f"{BLOCK}mixer.key_norm.{kind}", (f"{layer}self_attn.k_norm.{kind}",)),
        Entry(
            f"{BLOCK}feed_forward.input_proj.{kind}",
            (f"{layer}mlp.gate_proj.{kind}", f"{layer}mlp.up_proj.{kind}"),
            rows=("inner", "inner"),
        ),
        Entry(f"{BLOCK}feed_forward.output_proj.{kind}", (f"{layer}mlp.down_proj.{kind}",)),
    )


LLAMA = KeyMap(
    entries=(
        Entry("decoder.embedding.tokens.weight", ("model.embed_tokens.weight",)),
        Entry(f"{BLOCK}mixer_norm.weight", ("model.layers.{layer}.input_layernorm.weight",)),
        Entry(f"{BLOCK}feed_forward_norm.weight", ("model.layers.{layer}.post_attention_layernorm.weight",)),
        *_llama("weight"),
        *_llama("bias"),
        Entry("decoder.norm.weight", ("model.norm.weight",)),
        Entry("decoder.head.weight", ("lm_head.weight",)),
    ),
    copies=(("lm_head.weight", "model.embed_tokens.weight"),),
    ignored=(".rotary_emb.inv_freq",),  # follows from the settings; in old checkpoints
)
"""Llama, Mistral, Qwen2 and Qwen3 of Hugging Face."""

_GEMMA_NORMS = {f"{BLOCK}mixer_norm.weight", f"{BLOCK}feed_forward_norm.weight", "decoder.norm.weight"}
GEMMA = replace(
    LLAMA, entries=tuple(replace(one, added=1.0) if one.ours in _GEMMA_NORMS else one for one in LLAMA.entries)
)
"""The first Gemma of Hugging Face."""

_SHARED = {"family": "transformer", "final_norm": True, "scale_embeddings": False}
GPT2_FIXED = _SHARED | {"gated": False, "norm": "layer_norm", "positions": "learned", "window": None}
LLAMA_FIXED = _SHARED | {
    "activation": "swish",
    "gated": True,
    "norm": "rms_norm",
    "positions": "rotary",
    "rotary_frequencies": "standard",
    "rotary_pairs": "half",
}
"""Options that have one value in all models of a layout."""
GEMMA_FIXED = LLAMA_FIXED | {"activation": "gelu_tanh", "scale_embeddings": True, "tie_embeddings": True}

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}


def gpt2_config(settings: Settings, shapes: Shapes) -> TransformerConfig:
    """Ours from GPT-2's settings."""
    other = "scores are divided by the root of the head's channels here"
    settings.only("scale_attn_weights", True, other)
    settings.only("scale_attn_by_inverse_layer_idx", False, other)
    table, places = "wte.weight", "wpe.weight"
    vocab, hidden = side(shapes, table, 0), side(shapes, table, 1)
    inner, dropout = settings.get("n_inner", None), settings.get("resid_pdrop", 0.1)
    settings.leave_behind("embd_pdrop", 0.1, covered=dropout)  # one share falls on the embedding and on the sums here
    return TransformerConfig(
        vocab_size=settings.number("vocab_size", vocab, table),
        hidden_size=settings.number("n_embd", hidden, table),
        num_layers=settings.either("n_layer", "num_hidden_layers", 12),
        num_heads=settings.either("n_head", "num_attention_heads", 12),
        intermediate_size=4 * hidden if inner is None else inner,
        activation=settings.one_of("activation_function", ACTIVATIONS, "gelu_new"),  # pyright: ignore[reportArgumentType]
        norm="layer_norm",
        norm_epsilon=settings.get("layer_norm_epsilon", 1e-5),
        positions="learned",
        max_positions=settings.number("n_positions", side(shapes, places, 0), places),
        attention_bias=True,
        output_bias=True,
        feed_forward_bias=True,
        tie_embeddings=bool(settings.get("tie_word_embeddings", True)),
        dropout=dropout,
        attention_dropout=settings.get("attn_pdrop", 0.1),
    )


def llama_config(settings: Settings, shapes: Shapes) -> TransformerConfig:
    """Ours from the settings of Llama, Mistral, Qwen2 or Qwen3."""
    kind = settings.get("model_type", "llama")
    if kind not in ("llama", "mistral", "qwen2", "qwen3"):
        raise MismatchError(
            f"model_type must be 'llama', 'mistral', 'qwen2', 'qwen3' or 'gemma' in this layout of tensors, but is "
            f"{kind!r}, which computes something else with them."
        )
    settings.only("hidden_act", "silu", "the gate of such a model is a swish here")
    return _llama_like(settings, shapes, str(kind))


def gemma_config(settings: Settings, shapes: Shapes) -> TransformerConfig:
    """Ours from the settings of the first Gemma; the later ones have norms after each half too."""
    settings.only("model_type", "gemma", "later ones have further norms, which are not here")
    # "gelu" is a legacy value of the official releases, which mean the other; the library reads both alike.
    for name, allowed in (("hidden_activation", ("gelu_pytorch_tanh",)), ("hidden_act", ("gelu_pytorch_tanh", "gelu"))):
        said = settings.get(name, None) if name in settings else None
        if said is not None and said not in allowed:
            raise MismatchError(f"{name} must be 'gelu_pytorch_tanh' in a Gemma, but is {said!r}.")
    settings.only("use_bidirectional_attention", None, "a token reads what is before it here")
    return replace(
        _llama_like(settings, shapes, "gemma"), activation="gelu_tanh", scale_embeddings=True, tie_embeddings=True
    )


def _llama_like(settings: Settings, shapes: Shapes, kind: str) -> TransformerConfig:
    """What the settings say of the sizes, biases, norms and positions that all of the layout have."""
    table, inner = "model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight"
    vocab, hidden = side(shapes, table, 0), side(shapes, table, 1)
    heads = settings.get("num_attention_heads", 32)
    usual = {"qwen3": 128, "gemma": 256}.get(kind)  # what the library takes where a folder does not say
    head_dim = settings.get("head_dim", usual) or hidden // heads
    biased = kind == "qwen2" or bool(settings.get("attention_bias", False))
    return TransformerConfig(
        vocab_size=settings.number("vocab_size", vocab, table),
        hidden_size=settings.number("hidden_size", hidden, table),
        num_layers=settings.get("num_hidden_layers", 32),
        num_heads=heads,
        num_kv_heads=settings.get("num_key_value_heads", None) or heads,
        head_dim=head_dim,
        intermediate_size=settings.number("intermediate_size", side(shapes, inner, 0), inner),
        activation="swish",
        gated=True,
        norm_epsilon=settings.get("rms_norm_eps", 1e-6),
        rotary_base=_rotary_base(settings),
        rotary_scaling=_rotary_scaling(settings),
        rotary_pairs="half",
        window=_window(settings, kind),
        head_norm=kind == "qwen3",
        attention_bias=biased,
        output_bias=biased and kind != "qwen2",
        feed_forward_bias=bool(settings.get("mlp_bias", False)),
        tie_embeddings=bool(settings.get("tie_word_embeddings", False)),
        attention_dropout=settings.get("attention_dropout", 0.0),
    )


def _rope(settings: Settings) -> tuple[str, Mapping[str, Any]]:
    """The settings of the rotation, and the name under which they stand: either release of the library has one.

    Raises:
        MismatchError: If they stand under both, with different values, or are given for each kind of layer.
    """
    names = ("rope_scaling", "rope_parameters")
    given = {name: said for name in names if (said := settings.get(name, None) if name in settings else None)}
    if len(given) == 2 and given[names[0]] != given[names[1]]:
        raise MismatchError(
            "rope_scaling and rope_parameters must not both be given, but differ; leave one of them out."
        )
    name, said = next(iter(given.items()), ("rope_parameters", {}))
    if any(isinstance(value, Mapping) for value in cast("Mapping[str, Any]", said).values()):
        raise MismatchError(f"{name} must be one for all layers in what is converted, but is {said!r}.")
    return name, cast("Mapping[str, Any]", said)


def _rotary_base(settings: Settings) -> float:
    """The base of the rotation, from inside or outside of its other settings; inside counts, as in the library.

    Raises:
        MismatchError: If it is none, or only some channels turn.
    """
    name, said = _rope(settings)
    settings.only("partial_rotary_factor", 1.0, "all channels turn here")
    if said.get("partial_rotary_factor", 1.0) != 1.0:
        raise MismatchError(f"{name}.partial_rotary_factor must be 1.0 in what is converted: all channels turn here.")
    base = said["rope_theta"] if "rope_theta" in said else settings.get("rope_theta", 10000.0)
    if not isinstance(base, int | float):
        raise MismatchError(f"rope_theta must be a number, but is {base!r}.")
    return float(base)


def _rotary_scaling(settings: Settings) -> tuple[float, ...] | None:
    """How the rotation is slowed for longer texts."""
    name, said = _rope(settings)
    kind = said.get("rope_type", said.get("type", "default"))
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    if kind not in needed:
        raise MismatchError(
            f"{name}.rope_type must be one of {', '.join(needed)} in what is converted, but is {kind!r}, which is not "
            "here."
        )
    lacking = [key for key in needed[kind] if key not in said]
    if lacking:
        raise MismatchError(f"{name} of type {kind!r} must have {', '.join(lacking)}.")
    for key in needed[kind]:
        if not isinstance(said[key], int | float) or isinstance(said[key], bool):
            raise MismatchError(f"{name}.{key} must be a number, but is {said[key]!r}.")
    return tuple(float(said[key]) for key in needed[kind]) or None


def _window(settings: Settings, kind: str) -> int | None:
    if kind in ("llama", "gemma"):  # which ignore the setting
        return None
    is_qwen = kind in ("qwen2", "qwen3")
    uses = not is_qwen or bool(settings.get("use_sliding_window", False))
    window = settings.get("sliding_window", 4096) if uses else None
    named: set[str] = set(settings.get("layer_types", None) or []) if "layer_types" in settings else set()
    if is_qwen and not named:  # before they were listed, the layers from this one on had the window
        first, layers = settings.get("max_window_layers", 28), settings.get("num_hidden_layers", 32)
        wide = [window is None or layer < first for layer in range(layers)]
        named = {"full_attention" if is_wide else "sliding_attention" for is_wide in wide}
    if len(named) > 1:
        raise MismatchError("layer_types must be all alike in what is converted, but some layers have a window.")
    if named and (window is None) != (named == {"full_attention"}):
        if is_qwen and window is not None:
            return None
        raise MismatchError(
            f"layer_types and sliding_window must say the same, but say {named.pop()} and {window}; correct them."
        )
    return window


def sizes(config: FamilyConfig) -> Mapping[str, int]:
    """The sizes that `Entry.rows` names."""
    transformer = cast("TransformerConfig", config)  # the family of every format that has this function
    head_dim = transformer.head_dim or transformer.hidden_size // transformer.num_heads
    return {
        "queries": transformer.num_heads * head_dim,
        "keys": (transformer.num_kv_heads or transformer.num_heads) * head_dim,
        "inner": config.decoder.feed_forward.intermediate_size,
    }
