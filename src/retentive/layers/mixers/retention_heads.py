"""What retention and gated retention share: heads, the gated output, and the state (arXiv:2307.08621, eq. 8)."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.config_types import check_counts, check_kind, check_types
from retentive.layers.batch_layout import BatchLayout, RotaryConfig, RotaryTables, make_layout
from retentive.layers.mixers.protocol import InputProjection, MixerSizes
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.token_place import Rotation, TokenPlace, place_of
from retentive.ops.activation import ACTIVATIONS
from retentive.ops.lean.overwriting import may_write_over, times_heads
from retentive.ops.precision import state_dtype
from retentive.ops.retention.contribution import Contribution
from retentive.ops.rotary import apply_rotary, rotate, rotate_token
from retentive.shapes import Hidden, Positions, Queries, RetentionMatrix, Values
from retentive.state import RecurrentState, StateShape

ConfigOfHeads = TypeVar("ConfigOfHeads", bound="RetentionHeadsConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionHeadsConfig:
    """Shape of the heads of a retention layer, whatever its decay.

    Attributes:
        hidden_size: Width of the residual stream.
        num_heads: Heads.
        key_dim: Channels of one head's query and key.
        value_dim: Channels of one head's value; the paper takes twice ``key_dim``.
        rotary_base: See `RotaryConfig`, like the next two.
        rotary_frequencies: ``retnet`` is torchscale's table, ``standard`` flash-linear-attention's.
        rotary_pairs: Which channels are rotated together.
        gate: Activation of the output gate.
        head_norm: How each head's output is normalised; ``layer_norm`` is the paper's GroupNorm.
        bias: Whether the projections have biases.
        chunk_size: Tokens that the chunkwise form takes at a time. Changes speed, never results.
    """

    hidden_size: int
    num_heads: int
    key_dim: int
    value_dim: int
    rotary_base: float = 10000.0
    rotary_frequencies: Literal["retnet", "standard"] = "retnet"
    rotary_pairs: Literal["interleaved", "half"] = "interleaved"
    gate: Literal["swish", "gelu", "relu"] = "swish"
    head_norm: NormConfig = field(default_factory=lambda: NormConfig(affine=False))
    bias: bool = False
    chunk_size: int = 64

    window = None
    """What a token reads decays, and is cut off nowhere."""
    state_is_bounded = True
    """The state has one size."""
    takes_attention_mask = False
    """Tokens are read from left to right, into one state."""

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "hidden_size", "num_heads", "key_dim", "value_dim", "chunk_size")
        if self.gate not in ("swish", "gelu", "relu"):
            raise ValueError(f"gate must be 'swish', 'gelu' or 'relu', but is {self.gate!r}.")
        _ = self.rotary  # refuses an odd key_dim
        self.check_decay()

    def check_decay(self) -> None:
        """Validate the fields that a kind of retention adds."""

    @classmethod
    def of_heads(cls: type[ConfigOfHeads], sizes: MixerSizes) -> ConfigOfHeads:
        """Make the config of a family's sizes, with the decays that are the default."""
        return cls(
            hidden_size=sizes.hidden_size,
            num_heads=sizes.num_heads,
            key_dim=sizes.key_dim,
            value_dim=2 * sizes.key_dim if sizes.value_dim is None else sizes.value_dim,
            rotary_base=sizes.rotary_base,
            head_norm=NormConfig(epsilon=sizes.norm_epsilon, affine=False),
            bias=sizes.bias,
            chunk_size=sizes.chunk_size,
        )

    @property
    def rotary(self) -> RotaryConfig | None:
        """The rotation of queries and keys."""
        if not self.rotates:
            return None
        return RotaryConfig(
            dim=self.key_dim, base=self.rotary_base, frequencies=self.rotary_frequencies, pairs=self.rotary_pairs
        )

    @property
    def rotates(self) -> bool:
        """Whether queries and keys are rotated by their positions."""
        return True

    @property
    def state_shape(self) -> StateShape:
        """Of a `RetentionState`."""
        return ("retention", self.num_heads, self.key_dim, self.value_dim)


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


Heads = tuple[Queries, Queries, Values]
"""Query, key and value of all tokens, rotated and scaled."""


def _with_range(x: Tensor) -> Tensor:
    """float32 for float16: a head's output is a sum over all tokens, too large for float16 before the head norm."""
    return x.float() if x.dtype is torch.float16 else x


class RetentionHeads(nn.Module):
    """Projections to heads and back: one product gives query, key, value and gate.

    ``input_proj.weight`` holds their rows in that order.
    """

    reads_parts = True
    """See `PartReadingMixer`."""

    def __init__(self, config: RetentionHeadsConfig) -> None:
        """Make the projections."""
        check_kind("config", config, RetentionHeadsConfig)
        super().__init__()
        self.heads = config
        keys, values = config.num_heads * config.key_dim, config.num_heads * config.value_dim
        self.sizes = (keys, keys, values, values)
        self.rotary = config.rotary
        self.activation = ACTIVATIONS[config.gate]
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

    def forward(
        self, x: Hidden, state: RetentionState | None = None, layout: BatchLayout | None = None
    ) -> tuple[Hidden, RetentionState]:
        """Read ``x`` after ``state`` and return the output and the new state: chunkwise, or one recurrent step.

        Args:
            x: The residual stream, normalised.
            state: Where an earlier call stopped; None starts a new sequence.
            layout: Positions, padding and documents; None counts on from the state.

        Raises:
            ValueError: If ``x`` is not of this shape.
        """
        self.check_input(x)
        if layout is None:
            layout = self.place_after(x, None if state is None else state.position)
        if layout.is_one_token:
            before = self.initial_state(x.shape[0], x.device, x.dtype) if state is None else state
            output, following = self.step(x[:, 0], before, place_of(layout))
            return output[:, None], following
        query, key, value, gate = self.split_heads(self.input_proj(x), layout.tables(self.rotary))
        before = None if state is None else state.kv
        if layout.parts is None:
            mixed, kv = self.retain((query, key, value), x, before, layout)
        else:
            part = self.contribution((query, key, value), x, layout)
            before, kv, query = layout.parts.states_around(part, before, query)
            mixed, _ = self.retain((query, key, value), x, before, layout)
        output = self.read_out(self.scaled(mixed.transpose(1, 2), layout.positions), gate)
        return output, RetentionState(kv=kv, position=layout.next_position)

    @abstractmethod
    def retain(
        self, heads: Heads, x: Hidden, state: RetentionMatrix | None, layout: BatchLayout
    ) -> tuple[Values, RetentionMatrix]:
        """Let the tokens of a call read one another: the layer's operator.

        Args:
            heads: Query, key and value.
            x: What the heads were made of.
            state: Of the operator; None is empty.
            layout: Padding and documents.
        """

    @abstractmethod
    def contribution(self, heads: Heads, x: Hidden, layout: BatchLayout) -> Contribution:
        """How the tokens of a call change the state, for the processes that read other parts of the text."""

    @abstractmethod
    def step(
        self, x: Float[Tensor, "batch hidden"], state: RetentionState, place: TokenPlace
    ) -> tuple[Float[Tensor, "batch hidden"], RetentionState]:
        """Read one token of each row: the recurrent form."""

    def scaled(
        self, mixed: Float[Tensor, "*tokens heads value_dim"], positions: Positions
    ) -> Float[Tensor, "*tokens heads value_dim"]:
        """What the heads have read, before each is normalised."""
        return mixed

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
        if config.rotary_pairs == "interleaved" and may_write_over():
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
        if projected.dtype is torch.float16:
            projected = _with_range(projected)
        value = projected[:, 2 * keys : 2 * keys + values].view(batch, config.num_heads, config.value_dim)
        both = projected[:, : 2 * keys]
        if rotation is None:
            query, key = both.view(batch, 2, config.num_heads, config.key_dim).unbind(1)
            return query * config.key_dim**-0.5, key, value
        query, key = rotate_token(both, (2, config.num_heads), rotation, pairs=config.rotary_pairs).unbind(1)
        return query, key, value

    def read_out(
        self,
        mixed: Float[Tensor, "*tokens heads value_dim"],
        gate: Float[Tensor, "*tokens values"],
    ) -> Float[Tensor, "*tokens hidden"]:
        """``output_proj(gate * norm(mixed))``: normalise each head, gate, project (eq. 8)."""
        opened, heads = self.activation(gate), self.head_norm(mixed)
        if self.activation is not ACTIVATIONS[self.heads.gate]:  # another function's result may be its own to keep
            return self.output_proj(opened * heads.flatten(-2).to(opened.dtype))
        return self.output_proj(times_heads(opened, heads))
