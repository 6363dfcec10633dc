"""Multi-scale retention: the mixer of RetNet (Sun et al. 2023, arXiv:2307.08621, section 2.2)."""

import math
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_kind
from retentive.layers.batch_layout import BatchLayout
from retentive.layers.mixers.protocol import MixerSizes
from retentive.layers.mixers.retention_heads import Heads, RetentionHeads, RetentionHeadsConfig, RetentionState
from retentive.layers.parameters.constants import constant
from retentive.layers.parameters.derived import derived
from retentive.layers.token_place import TokenPlace
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
from retentive.ops.retention.contribution import Contribution, retention_contribution
from retentive.shapes import Hidden, Positions, RetentionMatrix, Values

DECAYS = {"geometric": log_decay_geometric, "linspace": log_decay_linspace}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig(RetentionHeadsConfig):
    """Shape of a retention layer; the fields of its heads, and their decays.

    Attributes:
        decay: Schedule of the decays over the heads: ``linspace`` is the paper's (remembers 32 to 512 tokens),
            ``geometric`` torchscale's and flash-linear-attention's (32 tokens, doubled from head to head).
        log_decay: The user's own ``log(gamma)``, one a head, in place of a schedule.
        relative_position: Whether query and key are rotated by their positions.
        normalise_scores: Divide what a head reads at position n by the root of ``gamma ** 0 + ... + gamma ** n``.
    """

    decay: Literal["geometric", "linspace"] = "geometric"
    log_decay: tuple[float, ...] | None = None
    relative_position: bool = True
    normalise_scores: bool = False

    def check_decay(self) -> None:
        """Validate the decays, and that nothing is said of a rotation that is not there."""
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be 'geometric' or 'linspace', but is {self.decay!r}.")
        rotary = (self.rotary_base, self.rotary_frequencies, self.rotary_pairs)
        if not self.relative_position and rotary != (10000.0, "retnet", "interleaved"):
            raise ValueError(
                f"rotary_base, rotary_frequencies and rotary_pairs mean nothing with relative_position=False, but are "
                f"{rotary}; leave them at their defaults."
            )
        if self.log_decay is not None and (
            len(self.log_decay) != self.num_heads or any(value > 0 for value in self.log_decay)
        ):
            raise ValueError(
                f"log_decay must be one log(gamma) a head, {self.num_heads} numbers at most 0, but is {self.log_decay}."
            )

    @classmethod
    def of_sizes(cls, sizes: MixerSizes) -> "RetentionConfig":
        """Make the config of a family's sizes, with the paper's decays."""
        return replace(cls.of_heads(sizes), decay="linspace")

    @property
    def rotates(self) -> bool:
        """See ``relative_position``."""
        return self.relative_position

    @property
    def half_lives(self) -> tuple[float, ...]:
        """Tokens after which each head has forgotten half."""
        log_decays = _log_decay(self, torch.device("cpu")).tolist()
        return tuple(math.inf if value == 0 else math.log(2) / -value for value in log_decays)

    def build(self) -> "MultiScaleRetention":
        """Make the layer."""
        return MultiScaleRetention(self)

    @property
    def log_decays(self) -> Float[Tensor, "heads"]:
        """``log(gamma)`` of every head, float64."""
        return self.log_decays_on(None)

    def log_decays_on(self, device: torch.device | None) -> Float[Tensor, "heads"]:
        """The same on a device."""
        if self.log_decay is not None:
            # Filled in where they stand: a list would be copied to the device by every call of compiled code.
            each = [torch.full((1,), value, dtype=torch.float64, device=device) for value in self.log_decay]
            return torch.cat(each)
        return DECAYS[self.decay](self.num_heads, device)


@constant
def _log_decay(config: RetentionConfig, device: torch.device) -> Float[Tensor, "heads"]:
    return config.log_decays_on(device)


@constant
def _recurrent_decay(config: RetentionConfig, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "heads 1 1"]:
    return recurrent_decay(config.log_decays_on(device), dtype)


class MultiScaleRetention(RetentionHeads):
    """Project, rotate, retain, normalise each head, gate, project (eq. 8).

    One product gives query, key, value and gate; ``input_proj.weight`` holds their rows in that order.
    """

    def __init__(self, config: RetentionConfig) -> None:
        """Make the projections; the decays are constants of the config: in bfloat16 ``1 - 2**-9`` would be 1."""
        check_kind("config", config, RetentionConfig)
        super().__init__(config)
        self.config = config

    @derived
    def decay(self) -> Float[Tensor, "heads 1 1"]:
        """``gamma`` of every head: from float64, rounded once to the dtype of the state."""
        # A quantised layer has no parameters; it computes in float32 on a CPU.
        some = next(self.parameters(), torch.empty(0))
        return _recurrent_decay(self.config, some.device, state_dtype(some.dtype))

    def retain(
        self, heads: Heads, x: Hidden, state: RetentionMatrix | None, layout: BatchLayout
    ) -> tuple[Values, RetentionMatrix]:
        """The chunkwise form (eq. 7), with the decays of the config."""
        log_decay, size = _log_decay(self.config, x.device), self.config.chunk_size
        return retention(*heads, state, log_decay=log_decay, mask=layout.mask, starts=layout.starts, chunk_size=size)

    def contribution(self, heads: Heads, x: Hidden, layout: BatchLayout) -> Contribution:
        """With the decays of the config."""
        log_decay = _log_decay(self.config, x.device)
        return retention_contribution(*heads[1:], log_decay=log_decay, mask=layout.mask, starts=layout.starts)

    def step(
        self, x: Float[Tensor, "batch hidden"], state: RetentionState, place: TokenPlace
    ) -> tuple[Float[Tensor, "batch hidden"], RetentionState]:
        """Read one token of each row: the recurrent form (eq. 6)."""
        projected = self.input_proj(x)
        query, key, value = self.split_token(projected, place.rotation(self.rotary))
        decay = self.decay
        if decay.is_meta:  # of an offloaded model, whose weights are loaded during their calls alone
            decay = _recurrent_decay(self.config, x.device, state.kv.dtype)
        mixed, kv = place.context.retain(query, key, value, state.kv, decay)
        output = self.read_out(self.scaled(mixed, place.positions), projected[:, -self.sizes[-1] :])
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
        q, k, v, gate = self.separately_projected(query, key, value)
        tables = layout.tables(self.rotary)
        if form == "recurrent":
            kv = self.initial_state(query.shape[0], query.device, query.dtype).kv if state is None else state
            rotation = None if tables is None else tables.complex
            heads = self.split_token(torch.cat((q, k, v), -1)[:, 0], rotation)
            mixed, kv = recurrent_step(*heads, kv, self.decay)
            mixed = mixed.unsqueeze(1)
        else:
            heads = self.split_heads(torch.cat((q, k, v, gate), -1), tables)[:3]
            log_decay = _log_decay(self.config, query.device)
            if form == "parallel":
                mixed, kv = retention_parallel(*heads, state, log_decay=log_decay)
            else:
                size = self.config.chunk_size
                mixed, kv = retention_chunkwise(*heads, state, log_decay=log_decay, chunk_size=size)
            mixed = mixed.transpose(1, 2)
        return self.read_out(self.scaled(mixed, layout.positions), gate), kv

    def separately_projected(self, query: Hidden, key: Hidden, value: Hidden) -> tuple[Tensor, ...]:
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

    def scaled(
        self, mixed: Float[Tensor, "*tokens heads value_dim"], positions: Positions
    ) -> Float[Tensor, "*tokens heads value_dim"]:
        """Where asked for, the paper's second normalisation (section 2.4)."""
        if not self.config.normalise_scores:
            return mixed
        scale = score_scale(_log_decay(self.config, positions.device), positions).to(mixed.dtype)
        return mixed * (scale if mixed.dim() == 4 else scale.squeeze(1))
