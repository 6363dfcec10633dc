"""Causal self-attention with a key-value cache: the mixer of the Transformer baseline."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_counts, check_kind, check_types
from retentive.layers.batch_layout import BatchLayout, RotaryConfig
from retentive.layers.mixers.cache_parts import caches_around
from retentive.layers.mixers.key_value_cache import (
    CacheReaderConfig,
    KeysAndValues,
    KeyValueState,
    cache_of,
    causal_mask,
)
from retentive.layers.mixers.protocol import InputProjection, MixerSizes, Recalled
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.projection import side_by_side
from retentive.layers.token_place import TokenPlace, place_of
from retentive.ops.attention import attention, attention_step
from retentive.ops.lean.plain import is_plain
from retentive.ops.precision import compute_dtype
from retentive.ops.rotary import rotate, rotate_token
from retentive.shapes import Hidden
from retentive.state import StateShape


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig(CacheReaderConfig):
    """Configuration of an attention layer.

    Attributes:
        key_dim: Channels of one head's query and key.
        value_dim: Channels of one head's value.
        window: A token sees itself and the ``window - 1`` tokens before it; None sees all.
        dropout: Share of attention weights dropped in training.
        bias: Whether the input projection has a bias.
        output_bias: Whether the output projection has one.
        rotary: Rotation of queries and keys; None has none.
        head_norm: Norm of each head's queries and keys before they are rotated, with one weight for all heads of
            queries and one for those of keys (Qwen3; arXiv:2010.04245 calls it QKNorm); None has none.
    """

    key_dim: int
    value_dim: int
    window: int | None = None
    dropout: float = 0.0
    bias: bool = False
    output_bias: bool = False
    rotary: RotaryConfig | None = None
    head_norm: NormConfig | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "hidden_size", "num_heads", "key_dim", "value_dim")
        if self.rotary is not None and self.rotary.dim != self.key_dim:
            raise ValueError(f"rotary.dim must be key_dim, {self.key_dim}, but is {self.rotary.dim}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"attention_dropout must be at least 0 and below 1, but is {self.dropout}.")
        self.check_groups()
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 token, but is {self.window}; None sees all tokens.")

    @classmethod
    def of_sizes(cls, sizes: MixerSizes) -> "AttentionConfig":
        """Make the config of a family's sizes; a token sees all tokens before it."""
        return cls(
            hidden_size=sizes.hidden_size,
            num_heads=sizes.num_heads,
            num_kv_heads=sizes.num_heads if sizes.num_kv_heads is None else sizes.num_kv_heads,
            key_dim=sizes.key_dim,
            value_dim=sizes.key_dim if sizes.value_dim is None else sizes.value_dim,
            dropout=sizes.dropout,
            bias=sizes.bias,
            output_bias=sizes.bias,
            rotary=RotaryConfig(dim=sizes.key_dim, base=sizes.rotary_base, frequencies="standard"),
        )

    @classmethod
    def of_sizes_with_window(cls, sizes: MixerSizes) -> "AttentionConfig":
        """The same with the family's window.

        Raises:
            ValueError: If the sizes have none.
        """
        if sizes.window is None:
            raise ValueError("window must be a number of tokens for window_attention, but is None.")
        return replace(cls.of_sizes(sizes), window=sizes.window)

    @property
    def state_is_bounded(self) -> bool:
        """Whether a window ends the cache."""
        return self.window is not None

    @property
    def state_shape(self) -> StateShape:
        """Of a `KeyValueState`."""
        return ("keys", self.num_kv_heads, self.key_dim, self.value_dim)

    def build(self) -> "Attention":
        """Make the layer."""
        return Attention(self)


class Attention(nn.Module):
    """Multi-head or grouped-query causal attention (Vaswani et al. 2017, arXiv:1706.03762)."""

    reads_parts = True
    """See `PartReadingMixer`."""

    def __init__(self, config: AttentionConfig) -> None:
        """Make the projections: one product gives queries, keys and values."""
        check_kind("config", config, AttentionConfig)
        super().__init__()
        self.config, self.rotary = config, config.rotary
        self.query_size = config.num_heads * config.key_dim
        self.key_size = config.num_kv_heads * config.key_dim
        self.value_size = config.num_kv_heads * config.value_dim
        self.input_proj = nn.Linear(
            config.hidden_size, self.query_size + self.key_size + self.value_size, bias=config.bias
        )
        self.output_proj = nn.Linear(config.num_heads * config.value_dim, config.hidden_size, bias=config.output_bias)
        self.query_norm = None if config.head_norm is None else Norm(config.key_dim, config.head_norm)
        self.key_norm = None if config.head_norm is None else Norm(config.key_dim, config.head_norm)

    def initial_state(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> KeyValueState:
        """A cache that holds nothing."""
        heads = self.config.num_kv_heads
        return KeyValueState(
            key=torch.zeros(batch, heads, 0, self.config.key_dim, device=device, dtype=dtype),
            value=torch.zeros(batch, heads, 0, self.config.value_dim, device=device, dtype=dtype),
        )

    def forward(
        self, x: Hidden, state: KeyValueState | None, layout: BatchLayout, recalled: KeysAndValues | None = None
    ) -> tuple[Hidden, KeyValueState]:
        """Attend to the cached tokens, what `recall` gave and those of this call, and return the longer cache."""
        if recalled is None and layout.is_one_token:
            before = self.initial_state(x.shape[0], x.device, x.dtype) if state is None else state
            output, following = self.step(x[:, 0], before, place_of(layout))
            return output[:, None], following
        batch, time, _ = x.shape
        config, tables = self.config, layout.tables(self.config.rotary)
        sizes = (self.query_size, self.key_size, self.value_size)
        query, key, value = self.input_proj(x).split(sizes, dim=-1)
        query = query.view(batch, time, config.num_heads, config.key_dim).transpose(1, 2)
        key = key.view(batch, time, config.num_kv_heads, config.key_dim).transpose(1, 2)
        value = value.view(batch, time, config.num_kv_heads, config.value_dim).transpose(1, 2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key, value = self.query_norm(query), self.key_norm(key), value.contiguous()
        if config.rotary is not None and tables is not None:
            query = rotate(query, tables.cos, tables.sin, pairs=config.rotary.pairs)
            key = rotate(key, tables.cos, tables.sin, pairs=config.rotary.pairs)
            value = value.contiguous()  # a view would keep the unrotated queries and keys too
        if recalled is not None:
            key, value = torch.cat((recalled[0], key), dim=2), torch.cat((recalled[1], value), dim=2)
        after = None
        if layout.parts is not None:
            state, after, query = caches_around(key, value, state, layout, config.window, query)
        if state is not None and state.key.shape[2]:
            key = torch.cat((state.key, key), dim=2)
            value = torch.cat((state.value, value), dim=2)
        attention_mask = layout.attention_mask
        if attention_mask is None:
            attention_mask = causal_mask(state, layout, batch, time, config.window, dtype=compute_dtype(query))
        dropout = self.config.dropout if self.training else 0.0
        causal = attention_mask.allowed is None and attention_mask.bias is None and time > 1
        mixed = attention(
            query, key, value, allowed=attention_mask.allowed, bias=attention_mask.bias, causal=causal, dropout=dropout
        )
        if after is None:
            gaps = layout.mask is not None or layout.starts is not None or layout.attention_mask is not None
            after = cache_of(key, value, attention_mask.visible, config.window, gaps=gaps)
        return self.output_proj(side_by_side(mixed)), after

    def step(
        self, x: Float[Tensor, "batch hidden"], state: KeyValueState, place: TokenPlace
    ) -> tuple[Float[Tensor, "batch hidden"], KeyValueState]:
        """Attend from the next token of each row to the cache and itself."""
        config, batch = self.config, x.shape[0]
        values_begin = self.query_size + self.key_size
        longest = None if config.window is None else config.window - 1
        append = place.context.append
        projected = self.input_proj(x)
        heads, both = config.num_heads + config.num_kv_heads, projected[:, :values_begin]
        if self.query_norm is not None and self.key_norm is not None:
            query, key = both.view(batch, heads, config.key_dim).split((config.num_heads, config.num_kv_heads), 1)
            both = torch.cat((self.query_norm(query), self.key_norm(key)), 1).flatten(1)
        if (rotary := self.rotary) is None:
            both = both.view(batch, heads, config.key_dim)
        else:  # the keys' rotation for both: attention scales the queries
            both = rotate_token(both, (heads,), place.key_rotation(rotary), pairs=rotary.pairs)
        value = projected[:, values_begin:].view(batch, config.num_kv_heads, config.value_dim)
        keys, key = append(state.key, both[:, config.num_heads :], 2, longest)
        values, value = append(state.value, value, 2, longest)
        allowed = visible = None
        if state.visible is not None:
            allowed, visible = append(state.visible, state.visible.new_ones(batch), 1, longest)
        dropout = config.dropout if self.training else 0.0
        mixed = attention_step(both[:, : config.num_heads], keys, values, allowed, dropout=dropout)
        return self.output_proj(mixed.flatten(1)), KeyValueState(key=key, value=value, visible=visible)

    def input_projections(self) -> tuple[InputProjection, ...]:
        """One projection to queries, keys and values."""
        rows = {"query": self.query_size, "key": self.key_size, "value": self.value_size}
        return (InputProjection(self.input_proj, rows),)

    def recall(self, recalled: Recalled) -> KeysAndValues:
        """Return keys and values of (normalised) hidden states, which make no queries."""
        batch, time, _ = recalled.hidden.shape
        if is_plain(self.input_proj):
            bias = cast("Tensor | None", self.input_proj.bias)
            bias = None if bias is None else bias[self.query_size :]
            both = nn.functional.linear(recalled.hidden, self.input_proj.weight[self.query_size :], bias)
        else:  # an adapter or a hook: the weight alone would leave it out
            both = self.input_proj(recalled.hidden)[..., self.query_size :]
        key, value = both.split((self.key_size, self.value_size), dim=-1)
        key = key.view(batch, time, self.config.num_kv_heads, self.config.key_dim).transpose(1, 2)
        if self.key_norm is not None:
            key = self.key_norm(key)
        if self.config.rotary is not None and recalled.rotary is not None:
            key = rotate(key, recalled.rotary.cos, recalled.rotary.sin, pairs=self.config.rotary.pairs)
        return key, value.view(batch, time, self.config.num_kv_heads, self.config.value_dim).transpose(1, 2)
