"""Attention of many layers to one cache of keys and values: the cross-decoder of YOCO (arXiv:2405.05254)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_counts, check_kind, check_types
from retentive.layers.batch_layout import AttentionMask, BatchLayout, RotaryConfig
from retentive.layers.mixers.cache_parts import caches_around
from retentive.layers.mixers.key_value_cache import CacheReaderConfig, KeyValueState, cache_of, causal_mask
from retentive.layers.mixers.protocol import InputProjection
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.projection import side_by_side
from retentive.layers.token_place import TokenPlace, place_of
from retentive.ops.attention import attention, attention_step
from retentive.ops.rotary import rotate, rotate_token
from retentive.shapes import Hidden
from retentive.state import StateShape


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCacheAttentionConfig(CacheReaderConfig):
    """Shape of the layers that read a shared cache, and of the cache; its heads, and what is its own.

    Attributes:
        head_dim: Channels of one head.
        rotary: Rotation of queries and keys, each by its own position.
    """

    window = None
    """A token reads all tokens before it."""
    state_is_bounded = False
    """The cache grows with every token."""

    head_dim: int
    rotary: RotaryConfig

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "hidden_size", "num_heads", "head_dim")
        if self.rotary.dim != self.head_dim:
            raise ValueError(f"rotary.dim must be head_dim, {self.head_dim}, but is {self.rotary.dim}.")
        self.check_groups()

    @property
    def state_shape(self) -> StateShape:
        """Of the shared `KeyValueState`."""
        return ("keys", self.num_kv_heads, self.head_dim, self.head_dim)

    def build(self) -> "SharedCacheAttention":
        """Make one of the layers; `SharedKeyValues` is made once, beside them."""
        return SharedCacheAttention(self)


class SharedKeyValues(nn.Module):
    """The keys and values that all `SharedCacheAttention` layers read: ``key_value_proj(norm(hidden))`` (eq. 2)."""

    def __init__(self, config: SharedCacheAttentionConfig, norm: NormConfig) -> None:
        """Make the norm and the projection.

        Args:
            config: That of the layers.
            norm: Of the hidden states.
        """
        check_kind("config", config, SharedCacheAttentionConfig)
        super().__init__()
        self.config, self.rotary = config, config.rotary
        self.size = config.num_kv_heads * config.head_dim
        self.norm = Norm(config.hidden_size, norm)
        self.key_value_proj = nn.Linear(config.hidden_size, 2 * self.size, bias=False)

    def forward(
        self, hidden: Hidden, state: KeyValueState | None, layout: BatchLayout
    ) -> tuple[KeyValueState, AttentionMask | None, KeyValueState]:
        """Return what this call's tokens read, which of it each may read, and the cache that is carried on.

        The two caches hold the same entries but for padding and finished documents, which are not carried on. One token
        of each row, and nothing else told about it, needs no mask.
        """
        batch, time, _ = hidden.shape
        if layout.is_one_token:
            before = empty_cache(self.config, batch, hidden.device, hidden.dtype) if state is None else state
            cache = self.step(hidden[:, 0], before, place_of(layout))
            return cache, None, cache
        config, tables = self.config, layout.tables(self.config.rotary)
        assert tables is not None
        key, value = self.key_value_proj(self.norm(hidden)).split(self.size, -1)
        key = key.view(batch, time, config.num_kv_heads, config.head_dim).transpose(1, 2)
        value = value.view(batch, time, config.num_kv_heads, config.head_dim).transpose(1, 2)
        key = rotate(key, tables.cos, tables.sin, pairs=config.rotary.pairs)
        value = value.contiguous()  # a view would keep the keys before rotation too
        after = None
        if layout.parts is not None:
            state, after, key = caches_around(key, value, state, layout, None, key)
        if state is not None and state.key.shape[2]:
            key, value = torch.cat((state.key, key), dim=2), torch.cat((state.value, value), dim=2)
        gaps = layout.mask is not None or layout.starts is not None
        is_plain = not gaps and (state is None or state.visible is None)
        # Order alone needs no mask of every column: attention makes one for the columns that ask.
        mask = AttentionMask() if is_plain else causal_mask(state, layout, batch, time, dtype=key.dtype)
        after = cache_of(key, value, mask.visible, gaps=gaps) if after is None else after
        return KeyValueState(key=key, value=value), mask, after

    def step(self, x: Float[Tensor, "batch hidden"], state: KeyValueState, place: TokenPlace) -> KeyValueState:
        """Return the cache with the next token of each row."""
        config, batch, append = self.config, x.shape[0], place.context.append
        key, value = self.key_value_proj(self.norm(x)).split(self.size, -1)
        key = _rotated(key.view(batch, config.num_kv_heads, config.head_dim), place, self.rotary)
        visible = state.visible
        return KeyValueState(
            key=append(state.key, key, 2)[1],
            value=append(state.value, value.view(batch, config.num_kv_heads, config.head_dim), 2)[1],
            visible=None if visible is None else append(visible, visible.new_ones(batch), 1)[1],
        )

    def input_projections(self) -> tuple[InputProjection, ...]:
        """One projection to keys and values, for the initialiser."""
        return (InputProjection(self.key_value_proj, {"key": self.size, "value": self.size}),)


class SharedCacheAttention(nn.Module):
    """Queries of its own over keys and values that `SharedKeyValues` made for all layers (eq. 3).

    The layer's state is the shared cache, the tokens of the call included: it is read and given back as it is.
    """

    reads_parts = True
    """See `PartReadingMixer`: the cache has been joined where it was made."""

    def __init__(self, config: SharedCacheAttentionConfig) -> None:
        """Make the projections of queries and of the output."""
        check_kind("config", config, SharedCacheAttentionConfig)
        super().__init__()
        self.config, self.rotary = config, config.rotary
        self.query_size = config.num_heads * config.head_dim
        self.query_proj = nn.Linear(config.hidden_size, self.query_size, bias=False)
        self.output_proj = nn.Linear(self.query_size, config.hidden_size, bias=False)

    def initial_state(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> KeyValueState:
        """A cache that holds nothing."""
        return empty_cache(self.config, batch, device, dtype)

    def forward(self, x: Hidden, state: KeyValueState, layout: BatchLayout) -> tuple[Hidden, KeyValueState]:
        """Read the cache.

        Args:
            x: The residual stream of the last tokens of the call, normalised; of all of them, or fewer.
            state: What the tokens of the call read, from `SharedKeyValues`.
            layout: Of the tokens of ``x``, with the ``attention_mask`` that came with ``state``.
        """
        if layout.is_one_token:
            return self.step(x[:, 0], state, place_of(layout))[0][:, None], state
        batch, time, _ = x.shape
        config, tables, mask = self.config, layout.tables(self.config.rotary), layout.attention_mask
        assert tables is not None
        assert mask is not None, "the mask is made with the cache, once for all layers"
        query = self.query_proj(x).view(batch, time, config.num_heads, config.head_dim).transpose(1, 2)
        query = rotate(query, tables.cos, tables.sin, pairs=config.rotary.pairs)
        causal = mask.allowed is None and time > 1
        mixed = attention(query, state.key, state.value, allowed=mask.allowed, causal=causal)
        return self.output_proj(side_by_side(mixed)), state

    def step(
        self, x: Float[Tensor, "batch hidden"], state: KeyValueState, place: TokenPlace
    ) -> tuple[Float[Tensor, "batch hidden"], KeyValueState]:
        """Read the cache, in which the token of each row is the last."""
        config = self.config
        query = self.query_proj(x).view(x.shape[0], config.num_heads, config.head_dim)
        mixed = attention_step(_rotated(query, place, self.rotary), state.key, state.value, state.visible)
        return self.output_proj(mixed.flatten(1)), state

    def input_projections(self) -> tuple[InputProjection, ...]:
        """One projection to queries."""
        return (InputProjection(self.query_proj, {"query": self.query_size}),)


def empty_cache(
    config: SharedCacheAttentionConfig, batch: int, device: torch.device | None, dtype: torch.dtype
) -> KeyValueState:
    """Make the cache of rows that have read nothing."""
    shape = (batch, config.num_kv_heads, 0, config.head_dim)
    key, value = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
    return KeyValueState(key=key, value=value)


def _rotated(
    x: Float[Tensor, "batch heads head_dim"], place: TokenPlace, rotary: RotaryConfig
) -> Float[Tensor, "batch heads head_dim"]:
    """Rotate queries or keys of one token a row."""
    # The keys' rotation for both: attention scales the queries.
    return rotate_token(x.flatten(1), (x.shape[1],), place.key_rotation(rotary), pairs=rotary.pairs)
