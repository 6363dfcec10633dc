"""What retention and gated retention share: heads, the gated output, and the state (arXiv:2307.08621, eq. 8)."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.layers.batch_layout import BatchLayout, RotaryConfig, RotaryTables, make_layout
from retentive.layers.mixers.protocol import InputProjection
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.token_place import Rotation
from retentive.ops.activation import ACTIVATIONS
from retentive.ops.lean.activations import activate_over
from retentive.ops.lean.plain import may_write_over
from retentive.ops.precision import state_dtype
from retentive.ops.rotary import apply_rotary, rotate
from retentive.shapes import Hidden, Queries, RetentionMatrix, Values
from retentive.state import RecurrentState, StateShape


@runtime_checkable
class RetentionHeadsConfig(Protocol):
    """What the heads of a layer need of its config; see `RetentionConfig` for the meaning."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def key_dim(self) -> int: ...
    @property
    def value_dim(self) -> int: ...
    @property
    def rotary(self) -> RotaryConfig | None: ...
    @property
    def rotary_pairs(self) -> Literal["interleaved", "half"]: ...
    @property
    def gate(self) -> Literal["swish", "gelu", "relu"]: ...
    @property
    def head_norm(self) -> NormConfig: ...
    @property
    def bias(self) -> bool: ...


class RetentionClaims:
    """What every config of a retention layer claims as a mixer; see `MixerConfig`."""

    __slots__ = ()

    @property
    def window(self) -> None:
        """None: what a token reads decays, and is cut off nowhere."""
        return

    @property
    def state_is_bounded(self) -> bool:
        """True: the state has one size."""
        return True

    @property
    def state_shape(self: RetentionHeadsConfig) -> StateShape:
        """Of a `RetentionState`."""
        return ("retention", self.num_heads, self.key_dim, self.value_dim)

    @property
    def takes_attention_mask(self) -> bool:
        """False: tokens are read from left to right, into one state."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionState(RecurrentState):
    """What one retention layer remembers; see `RecurrentState` for ``select``, ``detach`` and ``to``.

    Attributes:
        kv: The decayed sum of ``key value^T``, float32 or wider whatever the model's dtype.
        position: Tokens read so far, which the rotation of the next one needs.
    """

    kv: RetentionMatrix
    position: Int[Tensor, "batch"]

    @property
    def shape(self) -> StateShape:
        """Heads, and the channels of keys and values."""
        return ("retention", *self.kv.shape[1:])

    def at(self, position: Int[Tensor, "batch"]) -> "RetentionState":
        """Count on from another position."""
        return replace(self, position=position)


def _with_range(x: Tensor) -> Tensor:
    """float32 for float16: a head's output is a sum over all tokens, too large for float16 before the head norm."""
    return x.float() if x.dtype is torch.float16 else x


class RetentionHeads(nn.Module):
    """Projections to heads and back: one product gives query, key, value and gate.

    ``input_proj.weight`` holds their rows in that order.
    """

    def __init__(self, config: RetentionHeadsConfig) -> None:
        """Make the projections."""
        super().__init__()
        self.heads = config
        keys, values = config.num_heads * config.key_dim, config.num_heads * config.value_dim
        self.sizes = (keys, keys, values, values)
        self.rotary = config.rotary
        self.input_proj = nn.Linear(config.hidden_size, sum(self.sizes), bias=config.bias)
        self.output_proj = nn.Linear(values, config.hidden_size, bias=config.bias)
        self.head_norm = Norm(config.value_dim, config.head_norm)

    def initial_state(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> RetentionState:
        """The state of rows that have read nothing; float32 or wider whatever ``dtype`` the model has."""
        config = self.heads
        shape = (batch, config.num_heads, config.key_dim, config.value_dim)
        kv = torch.zeros(shape, device=device, dtype=state_dtype(dtype))
        return RetentionState(kv=kv, position=torch.zeros(batch, dtype=torch.long, device=device))

    def input_projections(self) -> tuple[InputProjection, ...]:
        """One projection to queries, keys, values and the gate."""
        query, key, value, gate = self.sizes
        return (InputProjection(self.input_proj, {"query": query, "key": key, "value": value, "gate": gate}),)

    def check_input(self, x: Tensor) -> None:
        """Refuse a residual stream of another shape.

        Raises:
            ValueError: If it is.
        """
        if x.ndim != 3 or x.shape[2] != self.heads.hidden_size:
            raise ValueError(
                f"x must be (batch, time, hidden_size = {self.heads.hidden_size}), but has shape {tuple(x.shape)}."
            )

    def place_after(self, x: Hidden, position: Int[Tensor, "batch"] | None) -> BatchLayout:
        """The layout of a call to this layer alone."""
        batch, time, _ = x.shape
        rotary = () if self.rotary is None else (self.rotary,)
        return make_layout(position, batch, time, rotary=rotary, device=x.device, dtype=x.dtype)

    def split_heads(
        self, projected: Float[Tensor, "batch time channels"], tables: RotaryTables | None
    ) -> tuple[Queries, Queries, Values, Float[Tensor, "batch time values"]]:
        """Split into heads and the gate, rotate query and key, scale the query by ``key_dim ** -0.5``."""
        config, (batch, time, _), scale = self.heads, projected.shape, self.heads.key_dim**-0.5
        # One split: of slices, each would have a gradient of all channels.
        query, key, value, gate = projected.split(self.sizes, -1)
        query, key, value = _with_range(query), _with_range(key), _with_range(value)
        query = query.view(batch, time, config.num_heads, config.key_dim).transpose(1, 2)
        key = key.view(batch, time, config.num_heads, config.key_dim).transpose(1, 2)
        value = value.view(batch, time, config.num_heads, config.value_dim).transpose(1, 2)
        if tables is None:
            return query * scale, key, value, gate
        if not torch.is_grad_enabled() and config.rotary_pairs == "interleaved" and not torch.compiler.is_compiling():
            both = _with_range(projected[..., : 2 * self.sizes[0]])
            both = both.view(batch, time, 2, config.num_heads, config.key_dim).permute(0, 2, 3, 1, 4)
            query, key = apply_rotary(both, tables.complex).unbind(1)  # in one pass
            return query, key, value, gate
        # Scaled tables scale the query in the pass that rotates it.
        query = rotate(query, tables.cos * scale, tables.sin * scale, pairs=config.rotary_pairs)
        return query, rotate(key, tables.cos, tables.sin, pairs=config.rotary_pairs), value, gate

    def split_token(
        self, projected: Float[Tensor, "batch channels"], rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same for one token: query and key are rotated in one call, to save overhead."""
        config, batch = self.heads, projected.shape[0]
        keys, _, values, _ = self.sizes
        projected = _with_range(projected)
        both = projected[:, : 2 * keys].view(batch, 2, config.num_heads, config.key_dim)
        value = projected[:, 2 * keys : 2 * keys + values].view(batch, config.num_heads, config.value_dim)
        if rotation is None:
            return both[:, 0] * config.key_dim**-0.5, both[:, 1], value
        query, key = apply_rotary(both.unsqueeze(3), rotation, pairs=config.rotary_pairs).squeeze(3).unbind(1)
        return query, key, value

    def read_out(
        self,
        mixed: Float[Tensor, "*tokens heads value_dim"],
        gate: Float[Tensor, "*tokens values"],
    ) -> Float[Tensor, "*tokens hidden"]:
        """``output_proj(gate * norm(mixed))``: normalise each head, gate, project (eq. 8)."""
        normed = self.head_norm(mixed)
        if not torch.is_grad_enabled() and may_write_over(gate, self.input_proj, self.output_proj):
            opened = activate_over(gate, self.heads.gate)
            opened.unflatten(-1, normed.shape[-2:]).mul_(normed)
            return self.output_proj(opened.flatten(0, -2)).view(*gate.shape[:-1], -1)
        return self.output_proj(ACTIVATIONS[self.heads.gate](gate) * normed.flatten(-2).to(gate.dtype))
