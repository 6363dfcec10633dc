"""A hybrid model that begins with the weights of a Transformer: some layers keep attention, others retain."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.errors import MismatchError
from retentive.models.base import DecoderModel
from retentive.models.decoder import blocks_of
from retentive.models.hybrid import HybridConfig
from retentive.models.registry import build
from retentive.models.transformer import TransformerConfig
from retentive.ops.lean.plain import check_weights_say_all

OPEN_GATE = 1.2784645
"""``swish`` of it is 1: a gate with this bias lets everything through."""
HALF_LIVES = (16.0, 1024.0)
"""Tokens after which the first and the last head of a new gated retention have forgotten half."""


def hybrid_config(teacher: TransformerConfig, pattern: tuple[str, ...], *, chunk_size: int = 64) -> HybridConfig:
    """The config of a hybrid with a Transformer's sizes and another mixer in some layers.

    Args:
        teacher: Of the Transformer.
        pattern: Names of mixers, repeated over the layers.
        chunk_size: Tokens that chunkwise forms take at a time.

    Raises:
        MismatchError: If the Transformer has something that a hybrid lacks; the message names it.
    """
    needed: dict[str, object] = {"positions": "rotary", "rotary_frequencies": "standard", "rotary_scaling": None}
    needed |= {"head_norm": False, "scale_embeddings": False}
    said = {name: getattr(teacher, name) for name in needed}
    lacking = [f"{name}={value!r}" for name, value in said.items() if value != needed[name]]
    if "window_attention" in pattern and teacher.window is None:
        lacking.append("window=None, which window_attention needs")
    if teacher.window is not None and "attention" in pattern:
        lacking.append(f"window={teacher.window}, so that its layers are window_attention in the pattern")
    if lacking:
        raise MismatchError(f"model must be a Transformer that a hybrid can begin as, but has {', '.join(lacking)}.")
    attends = any(name.endswith("attention") for name in pattern)
    dim = teacher.attention.key_dim
    return HybridConfig(
        vocab_size=teacher.vocab_size,
        hidden_size=teacher.hidden_size,
        num_layers=teacher.num_layers,
        num_heads=teacher.num_heads,
        pattern=pattern,
        num_kv_heads=teacher.attention.num_kv_heads if attends else None,
        key_dim=dim,
        value_dim=dim,
        window=teacher.window if "window_attention" in pattern else None,
        intermediate_size=teacher.decoder.feed_forward.intermediate_size,
        activation=teacher.activation,
        gated=teacher.gated,
        norm=teacher.norm,
        norm_epsilon=teacher.norm_epsilon,
        final_norm=teacher.final_norm,
        rotary_base=teacher.rotary_base,
        mixer_bias=True,  # which keeps the gates open
        feed_forward_bias=teacher.feed_forward_bias,
        head_bias=teacher.head_bias,
        tie_embeddings=teacher.tie_embeddings,
        initialisation="normal",
        chunk_size=chunk_size,
    )


@torch.no_grad()
def linear_start(
    teacher: DecoderModel, config: HybridConfig, tokens: Tensor | None = None
) -> tuple[DecoderModel, tuple[int, ...]]:
    """Make the hybrid: all of the Transformer's weights, and its projections in the layers that retain.

    Queries, keys, values and outputs are those of attention, with the keys and values of a group repeated for each of
    its heads. The gate is open, heads of gated retention begin with half-lives from 16 to 1,024 tokens, and outputs are
    scaled so that a head whose output is normalised writes as much as it wrote on average.

    Args:
        teacher: The Transformer.
        config: Of `hybrid_config`.
        tokens: Some text, by which outputs are scaled; None scales nothing.

    Returns:
        The model in eval mode, and the numbers of the layers that retain.

    Raises:
        MismatchError: If the Transformer computes something else than its weights say.
    """
    with torch.device("meta"):
        check_weights_say_all("teacher", teacher, build(teacher.config))
    student = build(config).eval()
    weights = teacher.state_dict()
    made = student.state_dict()
    lengths = {} if tokens is None else _lengths_of_heads(teacher, tokens)
    retains = tuple(number for number, mixer in enumerate(config.decoder.mixers) if mixer.state_shape[0] == "retention")
    for name, tensor in made.items():
        if ".mixer." not in name:
            tensor.copy_(weights[name])
    for number in range(config.num_layers):
        prefix = f"decoder.blocks.{number}.mixer."
        parts = {name.removeprefix(prefix): tensor for name, tensor in made.items() if name.startswith(prefix)}
        theirs = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        _fill_mixer(parts, theirs, teacher, config, number in retains, lengths.get(number))
    return student, retains


def _fill_mixer(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    teacher: DecoderModel,
    config: HybridConfig,
    retains: bool,
    lengths: Float[Tensor, "heads"] | None,
) -> None:
    """Write one mixer's tensors in place."""
    attention = teacher.config.decoder.mixers[0]
    heads, groups = config.num_heads, int(attention.state_shape[1])
    dim = int(attention.state_shape[2])
    halves = attention.rotary is not None and attention.rotary.pairs == "half"
    for kind in ("weight", "bias"):
        given = theirs.get(f"input_proj.{kind}")
        if given is None:
            ours[f"input_proj.{kind}"].zero_()
        else:
            query, key, value = given.split((heads * dim, groups * dim, groups * dim))
            if halves:  # channels that turn together stand side by side here
                query, key = _interleaved(query, dim), _interleaved(key, dim)
            if retains:
                key, value = _repeated(key, dim, heads // groups), _repeated(value, dim, heads // groups)
            both = torch.cat((query, key, value))
            ours[f"input_proj.{kind}"].zero_()[: len(both)].copy_(both)
        output = theirs.get(f"output_proj.{kind}")
        ours[f"output_proj.{kind}"].zero_() if output is None else ours[f"output_proj.{kind}"].copy_(output)
    if not retains:
        return
    ours["input_proj.bias"][-heads * dim :] = OPEN_GATE
    if lengths is not None:
        ours["output_proj.weight"].mul_(lengths.repeat_interleave(dim))
    if "decay_proj.weight" in ours:
        first, last = (math.log2(life) for life in HALF_LIVES)
        lives = torch.logspace(first, last, heads, base=2.0, dtype=torch.float64)
        share = 0.5 ** (16.0 / lives)  # of the temperature
        ours["decay_proj.weight"].zero_()
        ours["decay_proj.bias"].copy_((share / (1 - share)).log())


def _interleaved(rows: Tensor, dim: int) -> Tensor:
    """Rows of heads whose halves turn together, with the channels of each pair side by side."""
    return rows.unflatten(0, (-1, 2, dim // 2)).transpose(1, 2).reshape(rows.shape)


def _repeated(rows: Tensor, dim: int, times: int) -> Tensor:
    """The rows of each group, once for each of its heads."""
    return rows.unflatten(0, (-1, dim)).repeat_interleave(times, 0).flatten(0, 1)


def _lengths_of_heads(teacher: DecoderModel, tokens: Tensor) -> dict[int, Float[Tensor, "heads"]]:
    """Root of the mean square of each head's output, by layer, after reading some tokens."""
    found: dict[int, Tensor] = {}
    count = teacher.config.decoder.num_heads

    def noting(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            by_head = inputs[0].unflatten(-1, (count, -1))
            found[number] = by_head.square().mean((0, 1, 3)).sqrt()

        return note

    hooks = [
        block.mixer.output_proj.register_forward_pre_hook(noting(number))
        for number, block in enumerate(blocks_of(teacher.decoder))
    ]
    try:
        teacher(tokens, logits_to_keep=0)
    finally:
        for hook in hooks:
            hook.remove()
    return found
