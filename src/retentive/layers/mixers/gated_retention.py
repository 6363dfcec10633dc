"""Gated retention: retention whose decay each token chooses (gRetNet of YOCO, Sun et al. 2024, arXiv:2405.05254)."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_kind
from retentive.layers.batch_layout import BatchLayout
from retentive.layers.mixers.protocol import InputProjection, MixerSizes
from retentive.layers.mixers.retention_heads import Heads, RetentionHeads, RetentionHeadsConfig, RetentionState
from retentive.layers.token_place import TokenPlace
from retentive.ops.gated_retention import gated_retention, log_decay_gate, token_decay
from retentive.ops.gated_retention.contribution import gated_retention_contribution
from retentive.ops.retention.contribution import Contribution
from retentive.shapes import Hidden, RetentionMatrix, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedRetentionConfig(RetentionHeadsConfig):
    """Configuration of a gated retention layer, in which every token has a decay for each head.

    Attributes:
        temperature: Decays are ``sigmoid(x W) ** (1 / temperature)``: the larger, the longer a head remembers.
        rotary_frequencies: See `RetentionHeadsConfig`; ``standard`` unless something else is said.
    """

    temperature: float = 16.0
    rotary_frequencies: Literal["retnet", "standard"] = "standard"

    def check_decay(self) -> None:
        """Validate the temperature."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, but is {self.temperature}.")

    @classmethod
    def of_sizes(cls, sizes: MixerSizes) -> "GatedRetentionConfig":
        """Make the config of a family's sizes."""
        return cls.of_heads(sizes)

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
        check_kind("config", config, GatedRetentionConfig)
        super().__init__(config)
        self.config = config
        self.decay_proj = nn.Linear(config.hidden_size, config.num_heads, bias=config.bias)

    def retain(
        self, heads: Heads, x: Hidden, state: RetentionMatrix | None, layout: BatchLayout
    ) -> tuple[Values, RetentionMatrix]:
        """The chunkwise form (section 3.1), with the decays of the tokens."""
        log_decay, size = self.log_decay(x).transpose(1, 2), self.config.chunk_size
        return gated_retention(
            *heads, state, log_decay=log_decay, mask=layout.mask, starts=layout.starts, chunk_size=size
        )

    def contribution(self, heads: Heads, x: Hidden, layout: BatchLayout) -> Contribution:
        """With the decays of the tokens."""
        log_decay = self.log_decay(x).transpose(1, 2)
        return gated_retention_contribution(*heads[1:], log_decay=log_decay, mask=layout.mask, starts=layout.starts)

    def step(
        self, x: Float[Tensor, "batch hidden"], state: RetentionState, place: TokenPlace
    ) -> tuple[Float[Tensor, "batch hidden"], RetentionState]:
        """Read one token of each row: the recurrent form."""
        projected = self.input_proj(x)
        query, key, value = self.split_token(projected, place.rotation(self.rotary))
        decay = token_decay(self.log_decay(x), state.kv.dtype)
        mixed, kv = place.context.retain(query, key, value, state.kv, decay)
        output = self.read_out(mixed, projected[:, -self.sizes[-1] :])
        return output, RetentionState(kv=kv, position=place.next_position)

    def log_decay(self, x: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens heads"]:
        """``log(gamma)`` of each token and head, float32 or wider."""
        return log_decay_gate(self.decay_proj(x), self.config.temperature)

    def input_projections(self) -> tuple[InputProjection, ...]:
        """The projection to heads, and the one to decays."""
        return (*super().input_projections(), InputProjection(self.decay_proj, {"decay": self.config.num_heads}))
