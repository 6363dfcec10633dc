"""The weights that RETROfit begins with: an encoder of the backbone's first layers, and readers that add nothing."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from retentive.layers.block import Block
from retentive.layers.cross_attention import CrossAttention
from retentive.layers.mixers.protocol import MixerConfig
from retentive.models.decoder import Decoder, blocks_of
from retentive.models.retro.encoder import EncoderBlock
from retentive.models.retro.model import Retro


@torch.no_grad()
def start_from(model: Retro, backbone: Decoder) -> None:
    """Copy what fits of a trained decoder into the encoder, and let what reads neighbours add zero.

    Args:
        model: A new RETRO.
        backbone: The decoder that it is built around, trained.
    """
    encoder, table = model.encoder, backbone.embedding.tokens.weight
    if encoder.embedding is not None and encoder.embedding.weight.shape == table.shape:
        scale = table.shape[1] ** 0.5 if backbone.config.embedding.scale else 1.0
        encoder.embedding.weight.copy_(table * scale)
    for ours, theirs, mixer in zip(encoder.blocks, blocks_of(backbone), backbone.config.mixers, strict=False):
        _copy_block(cast("EncoderBlock", ours), theirs, mixer)
    for cross in model.cross:
        nn.init.zeros_(cast("CrossAttention", cross.attention).output_proj.weight)


def _copy_block(ours: EncoderBlock, theirs: Block, mixer: MixerConfig) -> None:
    parts = {name: part for found in theirs.mixer.input_projections() for name, part in found.parts().items()}
    _copy_attention(ours.attention, parts, theirs.mixer.output_proj.weight, mixer)
    for mine, other in (
        (ours.feed_forward.input_proj, theirs.feed_forward.input_proj),
        (ours.feed_forward.output_proj, theirs.feed_forward.output_proj),
    ):
        if mine.weight.shape == other.weight.shape:
            mine.weight.copy_(other.weight)
    for mine, other in ((ours.attention_norm, theirs.mixer_norm), (ours.feed_forward_norm, theirs.feed_forward_norm)):
        if mine.config == other.config and mine.size == other.size:
            mine.load_state_dict(other.state_dict())


def _copy_attention(ours: CrossAttention, parts: Mapping[str, Tensor], output: Tensor, mixer: MixerConfig) -> None:
    """Copy the projections of an attention with as many channels in a head; fewer heads of keys and values repeat."""
    heads, dim = ours.config.num_heads, ours.config.head_dim
    if not mixer.takes_attention_mask or mixer.num_heads != heads or output.shape != ours.output_proj.weight.shape:
        return
    of_heads = (parts[name].unflatten(0, (-1, dim)) for name in ("query", "key", "value"))
    query, key, value = (rows.repeat_interleave(heads // rows.shape[0], 0) for rows in of_heads)
    if mixer.rotary is not None and mixer.rotary.pairs == "half":  # ours turns neighbouring channels together
        query, key = (rows.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2) for rows in (query, key))
    ours.query_proj.weight.copy_(query.flatten(0, 1))
    ours.key_value_proj.weight.copy_(torch.cat((key.flatten(0, 1), value.flatten(0, 1))))
    ours.output_proj.weight.copy_(output)
