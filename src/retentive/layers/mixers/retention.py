"""Multi-scale retention: the mixer of RetNet (Sun et al. 2023, arXiv:2307.08621, section 2.2)."""

import math
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_types
from retentive.layers.batch_layout import BatchLayout, RotaryConfig
from retentive.layers.constants import constant
from retentive.layers.derived import derived
from retentive.layers.mixers.protocol import MixerSizes
from retentive.layers.mixers.retention_heads import RetentionClaims, RetentionHeads, RetentionState
from retentive.layers.norm import NormConfig
from retentive.layers.token_place import TokenPlace, place_of
from retentive.ops.lean.plain import is_plain
from retentive.ops.precision import state_dtype
from retentive.ops.retention import (
    log_decay_geometric,
    log_decay_linspace,
    recurrent_decay,
    recurrent_step,
    retention,
    retention_chunkwise,
    retention_parallel,
    score_scale,
)
from retentive.shapes import Hidden, Positions, RetentionMatrix

DECAYS = {"geometric": log_decay_geometric, "linspace": log_decay_linspace}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig(RetentionClaims):
    """Shape of a retention layer.

    Attributes:
        hidden_size: Width of the residual stream.
        num_heads: Heads, each with a decay of its own.
        key_dim: Channels of one head's query and key.
        value_dim: Channels of one head's value; the paper takes twice ``key_dim``.
        decay: Schedule of the decays over the heads: ``linspace`` is the paper's (remembers 32 to 512 tokens),
            ``geometric`` torchscale's and flash-linear-attention's (32 tokens, doubled from head to head).
        log_decay: The user's own ``log(gamma)``, one a head, in place of a schedule.
        relative_position: Whether query and key are rotated by their positions.
        rotary_base: See `RotaryConfig`, like the next two.
        rotary_frequencies: ``retnet`` is torchscale's table, ``standard`` flash-linear-attention's.
        rotary_pairs: Which channels are rotated together.
        gate: Activation of the output gate.
        head_norm: How each head's output is normalised; ``layer_norm`` is the paper's GroupNorm.
        normalise_scores: Divide what a head reads at position n by the root of ``gamma ** 0 + ... + gamma ** n``.
        bias: Whether the projections have biases.
        chunk_size: Tokens that the chunkwise form takes at a time. Changes speed, never results.
    """

    hidden_size: int
    num_heads: int
    key_dim: int
    value_dim: int
    decay: Literal["geometric", "linspace"] = "geometric"
    log_decay: tuple[float, ...] | None = None
    relative_position: bool = True
    rotary_base: float = 10000.0
    rotary_frequencies: Literal["retnet", "standard"] = "retnet"
    rotary_pairs: Literal["interleaved", "half"] = "interleaved"
    gate: Literal["swish", "gelu", "relu"] = "swish"
    head_norm: NormConfig = field(default_factory=lambda: NormConfig(affine=False))
    normalise_scores: bool = False
    bias: bool = False
    chunk_size: int = 64

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        for name in ("hidden_size", "num_heads", "key_dim", "value_dim", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be 'geometric' or 'linspace', but is {self.decay!r}.")
        if self.gate not in ("swish", "gelu", "relu"):
            raise ValueError(f"gate must be 'swish', 'gelu' or 'relu', but is {self.gate!r}.")
        rotary = (self.rotary_base, self.rotary_frequencies, self.rotary_pairs)
        if not self.relative_position and rotary != (10000.0, "retnet", "interleaved"):
            raise ValueError(
                f"rotary_base, rotary_frequencies and rotary_pairs mean nothing with relative_position=False, but are "
                f"{rotary}; leave them at their defaults."
            )
        _ = self.rotary  # refuses an odd key_dim
        if self.log_decay is not None and (
            len(self.log_decay) != self.num_heads or any(value > 0 for value in self.log_decay)
        ):
            raise ValueError(
                f"log_decay must be one log(gamma) a head, {self.num_heads} numbers at most 0, but is {self.log_decay}."
            )

    @classmethod
    def of_sizes(cls, sizes: MixerSizes) -> "RetentionConfig":
        """Make the config of a family's sizes, with the paper's decays."""
        return cls(
            hidden_size=sizes.hidden_size,
            num_heads=sizes.num_heads,
            key_dim=sizes.key_dim,
            value_dim=2 * sizes.key_dim if sizes.value_dim is None else sizes.value_dim,
            decay="linspace",
            rotary_base=sizes.rotary_base,
            head_norm=NormConfig(epsilon=sizes.norm_epsilon, affine=False),
            bias=sizes.bias,
            chunk_size=sizes.chunk_size,
        )

    @property
    def rotary(self) -> RotaryConfig | None:
        """The rotation of queries and keys."""
        if not self.relative_position:
            return None
        return RotaryConfig(
            dim=self.key_dim,
            base=self.rotary_base,
            frequencies=self.rotary_frequencies,
            pairs=self.rotary_pairs,
        )

    @property
    def half_lives(self) -> tuple[float, ...]:
        """Tokens after which each head has forgotten half."""
        return tuple(math.inf if value == 0 else math.log(2) / -value for value in _log_decay(self).tolist())

    def build(self) -> "MultiScaleRetention":
        """Make the layer."""
        return MultiScaleRetention(self)

    @property
    def log_decays(self) -> Float[Tensor, "heads"]:
        """``log(gamma)`` of every head, float64."""
        if self.log_decay is not None:
            return torch.tensor(self.log_decay, dtype=torch.float64)
        return DECAYS[self.decay](self.num_heads)


@constant
def _log_decay(config: RetentionConfig) -> Float[Tensor, "heads"]:
    return config.log_decays


@constant
def _recurrent_decay(config: RetentionConfig, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "heads 1 1"]:
    return recurrent_decay(config.log_decays.to(device), dtype)


class MultiScaleRetention(RetentionHeads):
    """Project, rotate, retain, normalise each head, gate, project (eq. 8).

    One product gives query, key, value and gate; ``input_proj.weight`` holds their rows in that order.
    """

    def __init__(self, config: RetentionConfig) -> None:
        """Make the projections; the decays are constants of the config: in bfloat16 ``1 - 2**-9`` would be 1."""
        super().__init__(config)
        self.config = config

    @derived
    def decay(self) -> Float[Tensor, "heads 1 1"]:
        """``gamma`` of every head: from float64, rounded once to the dtype of the state."""
        # A quantised layer has no parameters; it computes in float32 on a CPU.
        some = next(self.parameters(), torch.empty(0))
        return _recurrent_decay(self.config, some.device, state_dtype(some.dtype))

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
        config = self.config
        self.check_input(x)
        if layout is None:
            layout = self.place_after(x, None if state is None else state.position)
        if layout.is_one_token:
            before = self.initial_state(x.shape[0], x.device, x.dtype) if state is None else state
            output, following = self.step(x[:, 0], before, place_of(layout))
            return output[:, None], following
        projected = self.input_proj(x)
        query, key, value, gate = self.split_heads(projected, layout.tables(self.rotary))
        mixed, kv = retention(
            query,
            key,
            value,
            None if state is None else state.kv,
            log_decay=_log_decay(config),
            mask=layout.mask,
            starts=layout.starts,
            chunk_size=config.chunk_size,
        )
        output = self._output(mixed.transpose(1, 2), gate, layout.positions)
        return output, RetentionState(kv=kv, position=layout.next_position)

    def step(
        self, x: Float[Tensor, "batch hidden"], state: RetentionState, place: TokenPlace
    ) -> tuple[Float[Tensor, "batch hidden"], RetentionState]:
        """Read one token of each row: the recurrent form (eq. 6)."""
        projected = self.input_proj(x)
        query, key, value = self.split_token(projected, place.rotation(self.rotary))
        mixed, kv = recurrent_step(query, key, value, state.kv, self.decay, overwrite=place.context.overwrites_state)
        output = self._output(mixed, projected[:, -self.sizes[-1] :], place.positions)
        return output, RetentionState(kv=kv, position=place.next_position)

    def forward_parallel(self, query: Hidden, key: Hidden, value: Hidden) -> tuple[Hidden, RetentionMatrix]:
        """The parallel form (eq. 5) over separate inputs; the gate is projected from ``query``."""
        return self._separate(query, key, value, None, None, "parallel")

    def forward_chunkwise(
        self,
        query: Hidden,
        key: Hidden,
        value: Hidden,
        start_index: int = 0,
        state: RetentionMatrix | None = None,
    ) -> tuple[Hidden, RetentionMatrix]:
        """The chunkwise form (eq. 7) over separate inputs, whose first token has position ``start_index``."""
        return self._separate(query, key, value, start_index, state, "chunkwise")

    def forward_recurrent(
        self,
        query: Float[Tensor, "batch hidden"],
        key: Float[Tensor, "batch hidden"],
        value: Float[Tensor, "batch hidden"],
        index: int,
        state: RetentionMatrix | None = None,
    ) -> tuple[Float[Tensor, "batch hidden"], RetentionMatrix]:
        """One step of the recurrent form (eq. 6) over separate inputs, at position ``index``."""
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        output, kv = self._separate(query, key, value, index, state, "recurrent")
        return output.squeeze(1), kv

    def _separate(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        index: int | None,
        state: Tensor | None,
        form: Literal["parallel", "chunkwise", "recurrent"],
    ) -> tuple[Tensor, Tensor]:
        for name, given in (("query", query), ("key", key), ("value", value)):
            if given.ndim != 3 or given.shape != query.shape or given.shape[2] != self.config.hidden_size:
                raise ValueError(
                    f"{name} must have the batch and time of query and hidden_size = {self.config.hidden_size} "
                    f"channels, but has shape {tuple(given.shape)} beside a query of {tuple(query.shape)}."
                )
        if index is not None and index < 0:
            raise ValueError(f"the index of the first token must be at least 0, but is {index}.")
        position = torch.full((query.shape[0],), index, device=query.device) if index else None
        layout = self.place_after(query, position)
        q, k, v, gate = self._separately_projected(query, key, value)
        tables = layout.tables(self.rotary)
        if form == "recurrent":
            kv = self.initial_state(query.shape[0], query.device, query.dtype).kv if state is None else state
            rotation = None if tables is None else tables.complex
            heads = self.split_token(torch.cat((q, k, v), -1)[:, 0], rotation)
            mixed, kv = recurrent_step(*heads, kv, self.decay)
            mixed = mixed.unsqueeze(1)
        else:
            heads = self.split_heads(torch.cat((q, k, v, gate), -1), tables)[:3]
            if form == "parallel":
                mixed, kv = retention_parallel(*heads, state, log_decay=_log_decay(self.config))
            else:
                size = self.config.chunk_size
                mixed, kv = retention_chunkwise(*heads, state, log_decay=_log_decay(self.config), chunk_size=size)
            mixed = mixed.transpose(1, 2)
        return self._output(mixed, gate, layout.positions), kv

    def _separately_projected(self, query: Hidden, key: Hidden, value: Hidden) -> tuple[Tensor, ...]:
        """Query, key, value and gate, each of its own input; the gate of the query's."""
        inputs = (query, key, value, query)
        if not is_plain(self.input_proj):  # an adapter or a hook: the weight alone would leave it out
            return tuple(self.input_proj(x).split(self.sizes, -1)[part] for part, x in enumerate(inputs))
        weights = self.input_proj.weight.split(self.sizes)
        bias = cast("Tensor | None", self.input_proj.bias)
        biases = (None,) * 4 if bias is None else bias.split(self.sizes)
        return tuple(
            nn.functional.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, biases, strict=True)
        )

    def _output(
        self,
        mixed: Float[Tensor, "*tokens heads value_dim"],
        gate: Float[Tensor, "*tokens values"],
        positions: Positions,
    ) -> Float[Tensor, "*tokens hidden"]:
        """``output_proj(gate * norm(mixed))``, where asked for with the paper's second normalisation (section 2.4)."""
        if self.config.normalise_scores:
            scale = score_scale(_log_decay(self.config), positions).to(mixed.dtype)
            mixed = mixed * (scale if mixed.dim() == 4 else scale.squeeze(1))
        return self.read_out(mixed, gate)
