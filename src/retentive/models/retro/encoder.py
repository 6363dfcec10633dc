"""The encoder of neighbours: bidirectional, and conditioned on the chunk that they were found for."""

from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retentive.layers.cross_attention import CrossAttention
from retentive.layers.feed_forward import FeedForward
from retentive.layers.norm import Norm
from retentive.layers.parameters.reset import reset_parts
from retentive.models.retro.config import RetroConfig

Encoded = Float[Tensor, "batch chunks neighbours length memory"]
Condition = Float[Tensor, "batch chunks chunk hidden"]


class EncoderBlock(nn.Module):
    """Tokens of a neighbour read one another, then (in some layers) the chunk, then a feed-forward."""

    def __init__(self, config: RetroConfig, *, reads_chunk: bool) -> None:
        """Make the layers."""
        super().__init__()
        size, norm = config.encoder_hidden_size, config.cross_norm
        self.residual_scale = config.encoder_residual_scale
        self.attention_norm = Norm(size, norm)
        self.attention = CrossAttention(config.encoder_attention)
        self.cross_norm = Norm(size, norm) if reads_chunk else None
        self.cross = CrossAttention(config.encoder_cross_attention) if reads_chunk else None
        self.feed_forward_norm = Norm(size, norm)
        self.feed_forward = FeedForward(config.encoder_feed_forward)
        self.dropout = nn.Dropout(config.encoder_dropout)

    def forward(
        self,
        x: Encoded,
        real: Bool[Tensor, "batch chunks neighbours length"] | None,
        condition: Condition,
        condition_real: Bool[Tensor, "batch chunks chunk"] | None,
    ) -> Encoded:
        """Carry encoded neighbours through the block; padding is not read."""
        batch, chunks, neighbours, length, _ = x.shape
        places = torch.arange(length, device=x.device)[None]
        flat = x.flatten(0, 2)
        read = self._before(flat, self.attention_norm)
        key, value = self.attention.key_value(read, places, length)
        allowed = None if real is None else real.flatten(0, 2)[:, None]
        attend = partial(self.attention.attend, key=key, value=value, allowed=allowed)
        mixed = self.attention(read, places, length, attend)
        flat = self._add(flat, mixed, self.attention_norm)
        if self.cross is not None and self.cross_norm is not None:
            side_by_side = flat.view(batch * chunks, neighbours * length, -1)
            mixed = self._read_chunk(self._before(side_by_side, self.cross_norm), condition, condition_real, neighbours)
            flat = self._add(side_by_side, mixed, self.cross_norm).view_as(flat)
        mixed = self.feed_forward(self._before(flat, self.feed_forward_norm))
        return self._add(flat, mixed, self.feed_forward_norm).view_as(x)

    def _read_chunk(self, x: Tensor, condition: Tensor, condition_real: Tensor | None, neighbours: int) -> Tensor:
        """Let all neighbours of a chunk, side by side, read the chunk; distances are differences of places."""
        assert self.cross is not None
        length, chunk = x.shape[1] // neighbours, condition.shape[2]
        count = max(length, chunk)
        places = torch.arange(length, device=x.device).repeat(neighbours)[None]
        key, value = self.cross.key_value(condition.flatten(0, 1), torch.arange(chunk, device=x.device)[None], count)
        allowed = None if condition_real is None else condition_real.flatten(0, 1)[:, None]
        return self.cross(x, places, count, partial(self.cross.attend, key=key, value=value, allowed=allowed))

    def _before(self, x: Tensor, norm: Norm) -> Tensor:
        return x if self.residual_scale is not None else norm(x)

    def _add(self, x: Tensor, output: Tensor, norm: Norm) -> Tensor:
        dropped = self.dropout(output)
        return x + dropped if self.residual_scale is None else norm(self.residual_scale * x + dropped)


class NeighbourEncoder(nn.Module):
    """Encodes token ids of neighbours into the vectors that the decoder's tokens read."""

    def __init__(self, config: RetroConfig) -> None:
        """Make the parts; the table is the decoder's where embeddings are shared."""
        super().__init__()
        size = config.encoder_hidden_size
        self.config = config
        self.embedding = None if config.share_embeddings else nn.Embedding(config.vocab_size, size)
        self.embedding_proj = (
            nn.Linear(config.hidden_size, size, bias=False)
            if config.share_embeddings and size != config.hidden_size
            else None
        )
        self.condition_norm = Norm(config.hidden_size, config.cross_norm) if config.encoder_cross_layers else None
        self.embedding_dropout = nn.Dropout(config.encoder_dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(config, reads_chunk=layer in config.encoder_cross_layers)
            for layer in range(1, config.encoder_num_layers + 1)
        )
        self.norm = Norm(size, config.cross_norm) if config.residual == "pre_norm" else nn.Identity()
        _initialise(self)

    def reset_parameters(self) -> None:
        """Fill all parameters anew, as construction does."""
        reset_parts(self)
        _initialise(self)

    def forward(
        self,
        neighbours: Int[Tensor, "batch chunks neighbours length"],
        real: Bool[Tensor, "batch chunks neighbours length"] | None,
        condition: Condition,
        condition_real: Bool[Tensor, "batch chunks chunk"] | None,
        shared: nn.Module,
    ) -> Encoded:
        """Encode every neighbour by itself, conditioned on its chunk.

        Args:
            neighbours: Token ids; anything where there is no token.
            real: True where there is one; None where all are there.
            condition: The decoder's hidden states of the chunk that each neighbour was found for.
            condition_real: Which of them are there; None where all are.
            shared: The decoder's table, for shared embeddings.
        """
        table = shared if self.embedding is None else self.embedding
        rows: Any = table.num_embeddings
        ids = neighbours if real is None else neighbours.where(real, 0)
        try:
            x = table(ids)
        except IndexError as error:
            wrong = ids[(ids < 0) | (ids >= rows)]
            raise ValueError(
                f"every token id of neighbours must be from 0 to vocab_size - 1 = {rows - 1}, or -1 at "
                f"padding, but {wrong.numel()} are outside, the first of them {int(wrong[0])}; are they of another "
                "tokenizer?"
            ) from error
        if self.embedding_proj is not None:
            x = self.embedding_proj(x)
        x = self.embedding_dropout(x)
        if self.condition_norm is not None:
            condition = self.condition_norm(condition)
        for block in self.blocks:
            x = block(x, real, condition, condition_real)
        return self.norm(x)


def _initialise(encoder: NeighbourEncoder) -> None:
    """Variance ``1 / fan_in``, for outputs divided by the number of layers that write to the stream.

    With a fixed 0.02 a small model's reads of neighbours are so small that it takes long to learn from them.
    """
    if encoder.embedding is not None:
        nn.init.normal_(encoder.embedding.weight, std=encoder.config.encoder_hidden_size**-0.5)
    if encoder.embedding_proj is not None:
        nn.init.xavier_uniform_(encoder.embedding_proj.weight)
    layers = 2 * encoder.config.encoder_num_layers + len(encoder.config.encoder_cross_layers)
    for block in (cast("EncoderBlock", block) for block in encoder.blocks):
        for attention in (block.attention, block.cross):
            if attention is not None:
                initialise_cross_attention(attention, layers, encoder.config.encoder_num_layers, encoder.config)
        _fill(block.feed_forward.input_proj, 1)
        _fill(block.feed_forward.output_proj, layers)
        if encoder.config.residual == "deepnorm":
            _shrink(block.feed_forward.input_proj.weight, encoder.config.encoder_num_layers)
            _shrink(block.feed_forward.output_proj.weight, encoder.config.encoder_num_layers)


def initialise_cross_attention(attention: CrossAttention, writers: int, depth: int, config: RetroConfig) -> None:
    """The same rule for one attention; with DeepNorm, values and outputs are smaller.

    Args:
        attention: To fill.
        writers: Layers that write into the same residual stream.
        depth: Layers of its stack.
        config: Of the model.
    """
    _fill(attention.query_proj, 1)
    _fill(attention.key_value_proj, 1)
    _fill(attention.output_proj, writers)
    if config.residual == "deepnorm":
        _shrink(attention.key_value_proj.weight.chunk(2)[1], depth)
        _shrink(attention.output_proj.weight, depth)


def _fill(linear: nn.Linear, writers: int) -> None:
    nn.init.normal_(linear.weight, std=(linear.in_features * writers) ** -0.5)


@torch.no_grad()
def _shrink(weight: Tensor, depth: int) -> None:
    weight.mul_((8 * depth) ** -0.25)
