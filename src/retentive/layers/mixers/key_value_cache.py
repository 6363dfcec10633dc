"""The key-value cache: the state of attention, the mask over it, and how a window trims it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retentive.layers.batch_layout import AttentionMask, BatchLayout
from retentive.ops.tracing import is_traced
from retentive.state import RaggedFields, RecurrentState, StateShape

KeysAndValues = tuple[Tensor, Tensor]
"""Both of shape ``(batch, kv_heads, time, dim)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReaderConfig:
    """Shape of a layer that reads a cache of keys and values, whoever fills it; see `MixerConfig`.

    Attributes:
        hidden_size: Width of the residual stream.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; fewer than ``num_heads`` is grouped-query attention (arXiv:2305.13245).
    """

    takes_attention_mask = True
    """A token reads exactly what the mask allows."""
    half_lives = None
    """Nothing fades."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int

    def check_groups(self) -> None:
        """Validate the numbers of heads.

        Raises:
            ValueError: If queries cannot share the heads of keys and values evenly.
        """
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads, so that every group has as many heads, but num_heads is "
                f"{self.num_heads} and num_kv_heads is {self.num_kv_heads}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueState(RecurrentState):
    """The keys and values of all tokens so far, or of the last ``window - 1``, right-aligned and in order.

    Attributes:
        key: Keys, rotated by their own positions.
        value: Values.
        visible: Which entries are real tokens of the row's current document; None where all are.
    """

    ragged: ClassVar[RaggedFields] = {"visible": {"key": 2, "value": 2}}

    key: Float[Tensor, "batch kv_heads past key_dim"]
    value: Float[Tensor, "batch kv_heads past value_dim"]
    visible: Bool[Tensor, "batch past"] | None = None

    @property
    def shape(self) -> StateShape:
        """Heads, and the channels of keys and values."""
        return ("keys", self.key.shape[1], self.key.shape[3], self.value.shape[3])

    @property
    def computed(self) -> Mapping[str, Tensor]:
        """The keys, which autocast may leave narrower."""
        return {"key": self.key}

    @property
    def entries(self) -> tuple[int, Bool[Tensor, "batch past"] | None]:
        """The cached tokens, and which of them a row sees."""
        return self.key.shape[2], self.visible

    def restart(self, rows: Bool[Tensor, "batch"]) -> "KeyValueState":
        """Hide all entries of some rows."""
        visible = self.key.new_ones(self.key.shape[::2][:2], dtype=torch.bool) if self.visible is None else self.visible
        return replace(self, visible=visible & ~rows[:, None])

    def trimmed(self) -> "KeyValueState":
        """The cache without its first entries that no row sees."""
        if self.visible is None:
            return self
        begin = self.visible.shape[1] - int(self.visible.sum(1).amax())
        return KeyValueState(
            key=self.key[:, :, begin:], value=self.value[:, :, begin:], visible=self.visible[:, begin:]
        )

    def between(self, begin: int, end: int) -> "KeysAndValues":
        """Keys and values of some entries."""
        return self.key[:, :, begin:end], self.value[:, :, begin:end]


def causal_mask(
    state: KeyValueState | None,
    layout: BatchLayout,
    batch: int,
    time: int,
    window: int | None = None,
    *,
    dtype: torch.dtype,
) -> AttentionMask:
    """Return which keys each token of a call may read, by order, padding, documents and the window.

    By order and the window alone it is one bias for all layers of the call: attention would make, and keep for its
    backward pass, one of each layer's mask.

    Args:
        state: The cache before the call; None is empty.
        layout: Where the tokens stand.
        batch: Rows of the call.
        time: Its columns.
        window: A token sees itself and the ``window - 1`` tokens before it; None sees all.
        dtype: Of scores.
    """
    past = 0 if state is None else state.key.shape[2]
    cached = None if state is None else state.visible
    if layout.mask is None and layout.starts is None and cached is None:
        inside = window is None or past + time <= window
        if inside and (past == 0 or time == 1):
            return AttentionMask()
        if is_traced():  # a compiler cannot look up sizes that it leaves open
            return AttentionMask(allowed=_in_order(past, time, window, layout.positions.device))
        order, masks = (past, time, window, dtype), layout.masks_of_order
        if order not in masks:
            later = ~_in_order(past, time, window, layout.positions.device)
            masks[order] = AttentionMask(bias=later.new_zeros(later.shape, dtype=dtype).masked_fill_(later, -math.inf))
        return masks[order]
    return _ragged_mask(cached, layout, batch, past, time, window)


def _in_order(past: int, time: int, window: int | None, device: torch.device) -> Bool[Tensor, "1 1 time total"]:
    """Whether each key is the token's own or an earlier one, inside the window."""
    columns = torch.arange(past + time, device=device) - past
    rows = columns[past:, None]
    allowed = (columns <= rows) if window is None else (columns <= rows) & (columns > rows - window)
    return allowed[None, None]


def _ragged_mask(
    cached: Tensor | None, layout: BatchLayout, batch: int, past: int, time: int, window: int | None
) -> AttentionMask:
    """The causal mask with padding or documents: keys are ordered by their number of real tokens before them."""
    device = layout.positions.device
    ones = torch.ones(batch, time, dtype=torch.bool, device=device)
    real = ones if layout.mask is None else layout.mask
    before = torch.ones(batch, past, dtype=torch.bool, device=device) if cached is None else cached
    clock = real.cumsum(1)
    times = torch.cat((torch.arange(1 - past, 1, device=device).expand(batch, past), clock), 1)
    documents = torch.zeros_like(clock) if layout.starts is None else layout.starts.cumsum(1)
    owners = torch.cat((torch.zeros(batch, past, dtype=torch.long, device=device), documents), 1)
    present = torch.cat((before, real), 1)
    allowed = present[:, None] & (times[:, None] <= clock[..., None]) & (owners[:, None] == documents[..., None])
    allowed &= real[..., None]
    if window is not None:
        allowed &= times[:, None] > clock[..., None] - window
    return AttentionMask(allowed=allowed[:, None], visible=present & (owners == documents[:, -1:]))


def cache_of(
    key: Float[Tensor, "batch kv_heads total key_dim"],
    value: Float[Tensor, "batch kv_heads total value_dim"],
    visible: Bool[Tensor, "batch total"] | None,
    window: int | None = None,
    *,
    gaps: bool,
) -> KeyValueState:
    """Return the entries that a later token may still read: real ones moved to the end, cut to the window.

    Args:
        key: Of the cached tokens, then of this call's.
        value: Of the same tokens.
        visible: Which entries a later token may read; None where all.
        window: See `causal_mask`.
        gaps: Whether the call had padding or document starts. Cached entries stand at the end already, so without them
            nothing has to move.
    """
    if visible is not None and gaps:
        order = visible.to(torch.uint8).argsort(dim=1, stable=True)
        visible = visible.gather(1, order)
        index = order[:, None, :, None]
        key = key.gather(2, index.expand(-1, key.shape[1], -1, key.shape[3]))
        value = value.gather(2, index.expand(-1, value.shape[1], -1, value.shape[3]))
    if window is not None and key.shape[2] >= window:
        first = key.shape[2] - window + 1
        key, value = key[:, :, first:], value[:, :, first:]
        visible = visible[:, first:] if visible is not None else None
    return KeyValueState(key=key, value=value, visible=visible)
