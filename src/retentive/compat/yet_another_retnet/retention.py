"""``yet_another_retnet.retention``: its functions and its layer, computed by this library."""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.compat.arguments import activation_name, refuse
from retentive.layers.mixers import retention as layers
from retentive.layers.norm import NormConfig
from retentive.ops import retention as ops
from retentive.ops.retention import log_decay_linspace
from retentive.ops.retention.decay import decay_tables
from retentive.ops.rotary import rotary_frequencies, rotary_tables, rotate

Heads = Float[Tensor, "batch heads time dim"]
OneToken = Float[Tensor, "batch heads dim"]
State = Float[Tensor, "batch heads key_dim value_dim"]


def retention_parallel(
    query: Heads, key: Heads, value: Heads, scale: float | None = None, need_weights: bool = False
) -> tuple[Heads, Float[Tensor, "batch heads time time"] | None]:
    """The parallel form, and on request the decayed scores of all pairs.

    Args:
        query: Queries of all tokens.
        key: Keys of all tokens; divided by ``scale``.
        value: Values of all tokens.
        scale: None is the root of the head's channels.
        need_weights: Whether to return the scores.
    """
    key = _scaled(key, scale)
    rate = _decay(query)
    output, _ = ops.retention_parallel(query, key, value, log_decay=rate)
    return output, similarity(query, key) if need_weights else None


def retention_recurrent(
    query: OneToken, key: OneToken, value: OneToken, prev_state: State | None, scale: float | None = None
) -> tuple[OneToken, State]:
    """One step of the recurrent form, and the state after it."""
    return ops.retention_recurrent(query, _scaled(key, scale), value, prev_state, log_decay=_decay(query))


def retention_chunkwise(
    query: Heads, key: Heads, value: Heads, prev_state: State | None, scale: float | None = None
) -> tuple[Heads, State]:
    """The chunkwise form on a piece of any length after ``prev_state``, and the state after it."""
    return ops.retention_chunkwise(query, _scaled(key, scale), value, prev_state, log_decay=_decay(query))


class MultiScaleRetention(nn.Module):
    """The layer, with the calls of ``yet_another_retnet.retention.MultiScaleRetention``.

    Attributes:
        layer: The layer of this library that does the work.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        relative_position: bool = True,
        bias: bool = True,
        batch_first: bool = True,
        activation: str | Callable[[Tensor], Tensor] = "swish",
        group_norm_eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layer; the arguments are the package's.

        Raises:
            ValueError: If heads have no whole number of channels, ``batch_first`` is False, ``dropout`` is not 0, or
                the activation is none of ``swish``, ``gelu`` and ``relu``.
        """
        super().__init__()
        refuse("batch_first", batch_first, True, "the batch is the first dimension everywhere")
        refuse("dropout", dropout, 0.0, "drop what the layer returns, with torch.nn.Dropout")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, but {embed_dim} / {num_heads} is not whole.")
        head_dim = embed_dim // num_heads
        self.embed_dim, self.num_heads, self.relative_position = embed_dim, num_heads, relative_position
        config = layers.RetentionConfig(
            hidden_size=embed_dim,
            num_heads=num_heads,
            key_dim=head_dim,
            value_dim=head_dim,
            decay="linspace",
            relative_position=relative_position,
            gate=activation_name(activation),  # pyright: ignore[reportArgumentType]
            head_norm=NormConfig(kind="layer_norm", epsilon=group_norm_eps, affine=False),
            bias=bias,
        )
        self.layer = layers.MultiScaleRetention(config).to(device=device, dtype=dtype)
        self._state_scale = head_dim**-0.5
        for rows in (*self.layer.input_proj.weight.split(self.layer.sizes), self.layer.output_proj.weight):
            nn.init.xavier_normal_(rows)
        for projection in (self.layer.input_proj, self.layer.output_proj):
            if bias:
                nn.init.zeros_(cast("Tensor", projection.bias))

    def forward_parallel(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """All tokens at once, and on request the decayed scores of all pairs."""
        output, _ = self.layer.forward_parallel(query, key, value)
        return output, self._similarity(query, key) if need_weights else None

    def forward_recurrent(
        self, query: Tensor, key: Tensor, value: Tensor, seq_idx: int, prev_state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One token at position ``seq_idx``, and the state after it."""
        output, state = self.layer.forward_recurrent(query, key, value, seq_idx, self._from_theirs(prev_state))
        return output, state * self._state_scale

    def forward_chunkwise(
        self, query: Tensor, key: Tensor, value: Tensor, start_idx: int, prev_state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A piece whose first token is at position ``start_idx``, and the state after it."""
        output, state = self.layer.forward_chunkwise(query, key, value, start_idx, self._from_theirs(prev_state))
        return output, state * self._state_scale

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """`forward_parallel`."""
        return self.forward_parallel(query, key, value, need_weights=need_weights)

    def _from_theirs(self, state: Tensor | None) -> Tensor | None:
        # In their state, keys are divided by the root of their channels; in ours they are not.
        return None if state is None else state / self._state_scale

    def _similarity(self, query: Tensor, key: Tensor) -> Tensor:
        dim = self.embed_dim // self.num_heads
        projected = self.layer.separately_projected(query, key, key)[:2]
        q, k = (part.unflatten(-1, (-1, dim)).transpose(1, 2) for part in projected)
        if self.relative_position:
            positions = torch.arange(query.shape[1], device=query.device)[None]
            tables = rotary_tables(positions, rotary_frequencies(dim, device=query.device), torch.float32)
            q, k = rotate(q, *tables), rotate(k, *tables)
        return similarity(q, k * self._state_scale)


def similarity(query: Heads, key: Heads) -> Float[Tensor, "batch heads time time"]:
    """Scores of all pairs, decayed by their distance; 0 for later keys."""
    tables = decay_tables(_decay(query), query.shape[2], torch.promote_types(query.dtype, torch.float32))
    return ((query @ key.mT) * tables.intra[:, :, 0]).to(query.dtype)


def _scaled(key: Tensor, scale: float | None) -> Tensor:
    return key / (key.shape[-1] ** 0.5 if scale is None else scale)


def _decay(query: Tensor) -> Tensor:
    return log_decay_linspace(query.shape[1], query.device)
