"""Attention from one sequence to another, or in both directions of one: the parts of RETRO's encoder and decoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retentive.config_types import check_counts, check_kind, check_types
from retentive.layers.batch_layout import RotaryConfig
from retentive.layers.parameters.constants import constant
from retentive.layers.projection import side_by_side
from retentive.layers.token_place import KeyRotation
from retentive.ops.attention import attention, attention_step
from retentive.ops.lean.plain import is_plain
from retentive.ops.rotary import rotary_tables, rotate, rotate_token
from retentive.shapes import Hidden, Queries, RotaryTable, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossAttentionConfig:
    """Shape of a cross-attention layer.

    Attributes:
        hidden_size: Width of the sequence that makes queries.
        memory_size: Width of the sequence that is read.
        num_heads: Heads.
        head_dim: Channels of one head.
        dropout: Share of attention weights dropped in training.
        rotary: Rotation of queries and keys, so that scores depend on distances; None is no rotation.
    """

    hidden_size: int
    memory_size: int
    num_heads: int
    head_dim: int
    dropout: float = 0.0
    rotary: RotaryConfig | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "hidden_size", "memory_size", "num_heads", "head_dim")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"attention dropout must be at least 0 and below 1, but is {self.dropout}.")


class CrossAttention(nn.Module):
    """Multi-head attention whose queries and keys may come from different sequences; without biases."""

    def __init__(self, config: CrossAttentionConfig) -> None:
        """Make the projections: one product gives keys and values."""
        check_kind("config", config, CrossAttentionConfig)
        super().__init__()
        self.config = config
        inner = config.num_heads * config.head_dim
        self.query_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.key_value_proj = nn.Linear(config.memory_size, 2 * inner, bias=False)
        self.output_proj = nn.Linear(inner, config.hidden_size, bias=False)

    @property
    def dropout(self) -> float:
        """Share of attention weights dropped now."""
        return self.config.dropout if self.training else 0.0

    def query(self, x: Hidden, places: Int[Tensor, "#batch time"], count: int) -> Queries:
        """Queries of tokens that stand at ``places``, all below ``count``."""
        return self._rotated(self.query_proj(x), places, count)

    def key_value(
        self, memory: Float[Tensor, "batch read memory"], places: Int[Tensor, "#batch read"], count: int
    ) -> tuple[Float[Tensor, "batch heads read key_dim"], Float[Tensor, "batch heads read key_dim"]]:
        """Keys and values of what can be read, which stands at ``places``, all below ``count``."""
        weight = _whole(self.key_value_proj)
        if weight is None:
            key, value = self.key_value_proj(memory).chunk(2, -1)
            return self._rotated(key, places, count), self._heads(value)
        # Two products: with one, the unrotated keys would be kept for the gradient as long as the values.
        of_key, of_value = weight.chunk(2)
        value = self._heads(nn.functional.linear(memory, of_value))
        return self._rotated(nn.functional.linear(memory, of_key), places, count), value

    def forward(
        self, x: Hidden, places: Int[Tensor, "#batch time"], count: int, read: Callable[[Queries], Values]
    ) -> Hidden:
        """Let tokens ask, and project what their heads have read back to the residual stream.

        Args:
            x: The tokens.
            places: Where they stand; see `query`.
            count: See there.
            read: What the heads read, given the queries, such as `attend`.
        """
        return self.output_proj(side_by_side(read(self.query(x, places, count))))

    def attend(
        self,
        query: Queries,
        key: Float[Tensor, "batch heads read key_dim"],
        value: Float[Tensor, "batch heads read value_dim"],
        allowed: Bool[Tensor, "#batch #time read"] | None,
    ) -> Values:
        """What each head reads of all that it may; a token that may read nothing gets zeros."""
        if allowed is not None:
            allowed = allowed[:, None].expand(-1, -1, query.shape[2], -1)
        return attention(query, key, value, allowed=allowed, dropout=self.dropout)

    def step(
        self,
        x: Float[Tensor, "batch hidden"],
        key: Float[Tensor, "batch heads read key_dim"],
        value: Float[Tensor, "batch heads read value_dim"],
        allowed: Bool[Tensor, "batch read"] | None,
        rotation: KeyRotation | None,
    ) -> Float[Tensor, "batch inner"]:
        """What the heads of one token of each row read; every token may read something.

        Args:
            x: The tokens.
            key: Of what can be read.
            value: What is read.
            allowed: True where a row's token may read a key; None where it may read all.
            rotation: Of the tokens' queries.
        """
        config = self.config
        query = self.query_proj(x)
        if config.rotary is None or rotation is None:
            query = query.view(x.shape[0], config.num_heads, config.head_dim)
        else:
            query = rotate_token(query, (config.num_heads,), rotation, pairs=config.rotary.pairs)
        key, value = key.to(query.dtype), value.to(query.dtype)
        return attention_step(query, key, value, allowed, dropout=self.dropout).flatten(1)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.config.num_heads, self.config.head_dim)).transpose(1, 2)

    def _rotated(self, projected: Tensor, places: Tensor, count: int) -> Tensor:
        rotary = self.config.rotary
        if rotary is None:
            return self._heads(projected)
        return rotate(self._heads(projected), *_rotary_columns(rotary, places, count, projected), pairs=rotary.pairs)


def _whole(projection: nn.Module) -> Tensor | None:
    """The weight of a plain projection without a bias; None for any other, which has to be called."""
    if not is_plain(projection) or isinstance(projection.bias, Tensor):
        return None
    return cast("Tensor", projection.weight)


def _rotary_columns(rotary: RotaryConfig, places: Tensor, count: int, like: Tensor) -> tuple[RotaryTable, RotaryTable]:
    """Cosines and sines of the places, for what has the dtype and device of ``like``."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    cos, sin = _tables(rotary, count, like.device, dtype)[:, places]
    return cos, sin


@constant
def _tables(
    rotary: RotaryConfig, count: int, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "2 count half_key_dim"]:
    """Cosines and sines of the places from 0."""
    positions = torch.arange(count, device=device)[None]
    return torch.cat(rotary_tables(positions, rotary.frequencies_on(device), dtype))
