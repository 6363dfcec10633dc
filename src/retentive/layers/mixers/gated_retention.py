"""Gated retention: retention whose decay each token chooses (gRetNet of YOCO, Sun et al. 2024, arXiv:2405.05254)."""

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_types
from retentive.layers.batch_layout import BatchLayout, RotaryConfig
from retentive.layers.mixers.protocol import InputProjection, MixerSizes
from retentive.layers.mixers.retention_heads import RetentionClaims, RetentionHeads, RetentionState
from retentive.layers.norm import NormConfig
from retentive.layers.token_place import TokenPlace, place_of
from retentive.ops.gated_retention import gated_retention, log_decay_gate, token_decay
from retentive.ops.retention import recurrent_step
from retentive.shapes import Hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedRetentionConfig(RetentionClaims):
    """Shape of a gated retention layer.

    Attributes:
        hidden_size: Width of the residual stream.
        num_heads: Heads; each token has a decay for each of them.
        key_dim: Channels of one head's query and key.
        value_dim: Channels of one head's value.
        temperature: Decays are ``sigmoid(x W) ** (1 / temperature)``: the larger, the longer a head remembers.
        rotary_base: See `RotaryConfig`, like the next two.
        rotary_frequencies: See there.
        rotary_pairs: See there.
        gate: Activation of the output gate.
        head_norm: How each head's output is normalised.
        bias: Whether the projections have biases.
        chunk_size: Tokens that the chunkwise form takes at a time. Changes speed, never results.
    """

    hidden_size: int
    num_heads: int
    key_dim: int
    value_dim: int
    temperature: float = 16.0
    rotary_base: float = 10000.0
    rotary_frequencies: Literal["retnet", "standard"] = "standard"
    rotary_pairs: Literal["interleaved", "half"] = "interleaved"
    gate: Literal["swish", "gelu", "relu"] = "swish"
    head_norm: NormConfig = field(default_factory=lambda: NormConfig(affine=False))
    bias: bool = False
    chunk_size: int = 64

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        for name in ("hidden_size", "num_heads", "key_dim", "value_dim", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, but is {self.temperature}.")
        if self.gate not in ("swish", "gelu", "relu"):
            raise ValueError(f"gate must be 'swish', 'gelu' or 'relu', but is {self.gate!r}.")
        _ = self.rotary  # validates key_dim

    @classmethod
    def of_sizes(cls, sizes: MixerSizes) -> "GatedRetentionConfig":
        """Make the config of a family's sizes."""
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
    def rotary(self) -> RotaryConfig:
        """The rotation of queries and keys."""
        return RotaryConfig(
            dim=self.key_dim, base=self.rotary_base, frequencies=self.rotary_frequencies, pairs=self.rotary_pairs
        )

    @property
    def half_lives(self) -> None:
        """None: each token chooses how much is forgotten."""
        return

    def build(self) -> "GatedRetention":
        """Make the layer."""
        return GatedRetention(self)


class GatedRetention(RetentionHeads):
    """Project, rotate, retain by the tokens' own decays, normalise each head, gate, project.

    ``log gamma = log sigmoid(x W_decay) / temperature``; the rest is `MultiScaleRetention`.
    """

    def __init__(self, config: GatedRetentionConfig) -> None:
        """Make the projections."""
        super().__init__(config)
        self.config = config
        self.decay_proj = nn.Linear(config.hidden_size, config.num_heads, bias=config.bias)

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
        projected = self.input_proj(x)
        query, key, value, gate = self.split_heads(projected, layout.tables(self.rotary))
        mixed, kv = gated_retention(
            query,
            key,
            value,
            None if state is None else state.kv,
            log_decay=self.log_decay(x).transpose(1, 2),
            mask=layout.mask,
            starts=layout.starts,
            chunk_size=self.config.chunk_size,
        )
        output = self.read_out(mixed.transpose(1, 2), gate)
        return output, RetentionState(kv=kv, position=layout.next_position)

    def step(
        self, x: Float[Tensor, "batch hidden"], state: RetentionState, place: TokenPlace
    ) -> tuple[Float[Tensor, "batch hidden"], RetentionState]:
        """Read one token of each row: the recurrent form."""
        projected = self.input_proj(x)
        query, key, value = self.split_token(projected, place.rotation(self.rotary))
        decay = token_decay(self.log_decay(x), state.kv.dtype)
        overwrite = place.context.overwrites_state
        mixed, kv = recurrent_step(query, key, value, state.kv, decay, overwrite=overwrite)
        output = self.read_out(mixed, projected[:, -self.sizes[-1] :])
        return output, RetentionState(kv=kv, position=place.next_position)

    def log_decay(self, x: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens heads"]:
        """``log(gamma)`` of each token and head, float32 or wider."""
        return log_decay_gate(self.decay_proj(x), self.config.temperature)

    def input_projections(self) -> tuple[InputProjection, ...]:
        """The projection to heads, and the one to decays."""
        return (*super().input_projections(), InputProjection(self.decay_proj, {"decay": self.config.num_heads}))
