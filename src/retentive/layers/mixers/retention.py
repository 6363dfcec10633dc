"""Multi-scale retention: the mixer of RetNet (Sun et al. 2023, arXiv:2307.08621, section 2.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from retentive.config_types import check_types
from retentive.layers.batch_layout import BatchLayout, RotaryConfig, make_layout
from retentive.layers.bound import bind_linear, may_overwrite
from retentive.layers.constants import constant
from retentive.layers.feed_forward import IN_PLACE
from retentive.layers.norm import Norm, NormConfig
from retentive.ops.precision import state_dtype
from retentive.ops.retention import (
    log_decay_geometric,
    log_decay_linspace,
    recurrent_decay,
    recurrent_step,
    retention,
    retention_chunkwise,
    retention_parallel,
)
from retentive.ops.rotary import apply_rotary, rotate
from retentive.shapes import Hidden, LogDecay, Positions, RetentionMatrix
from retentive.state import RecurrentState

DECAYS = {"geometric": log_decay_geometric, "linspace": log_decay_linspace}
GATES = {"swish": nn.functional.silu, "gelu": nn.functional.gelu, "relu": nn.functional.relu}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
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
        rotary_pairs: Channels that turn together.
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
        """Refuse what cannot be."""
        check_types(self)
        for name in ("hidden_size", "num_heads", "key_dim", "value_dim", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be 'geometric' or 'linspace', but is {self.decay!r}.")
        if self.gate not in GATES:
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
    def log_decays(self) -> Float[Tensor, "heads"]:
        """``log(gamma)`` of every head, float64."""
        if self.log_decay is not None:
            return torch.tensor(self.log_decay, dtype=torch.float64)
        return DECAYS[self.decay](self.num_heads)

    @property
    def half_lives(self) -> tuple[float, ...]:
        """Tokens after which a head has forgotten half of what it read; infinity for one that never forgets."""
        return tuple(math.inf if rate == 0 else math.log(2) / -rate for rate in self.log_decays.tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionState(RecurrentState):
    """What one retention layer remembers; see `RecurrentState` for ``select``, ``detach`` and ``to``.

    Attributes:
        kv: The decayed sum of ``key value^T``, float32 or wider whatever the model's dtype.
        position: Tokens read so far, which the rotation of the next one needs.
    """

    kv: RetentionMatrix
    position: Int[Tensor, "batch"]


BoundRetention = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""From ``(batch, hidden)``, the state's ``kv`` and the token's rotation to the output and the new ``kv``."""


@constant
def _log_decay(config: RetentionConfig) -> Float[Tensor, "heads"]:
    return config.log_decays


@constant
def _recurrent_decay(config: RetentionConfig, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "heads 1 1"]:
    return recurrent_decay(config.log_decays.to(device), dtype)


def _score_scale(log_decay: LogDecay, positions: Positions) -> Float[Tensor, "#batch time heads 1"]:
    """``(gamma ** 0 + ... + gamma ** n) ** -0.5`` at position n: the paper's second normalisation (section 2.4)."""
    rate = log_decay.to(positions.device)
    tokens = (positions + 1).to(torch.float64).unsqueeze(-1)
    forgetful = torch.expm1(rate * tokens) / torch.expm1(rate)
    return torch.where(rate == 0, tokens, forgetful).rsqrt().unsqueeze(-1)


def _with_range(x: Tensor) -> Tensor:
    """float32 for float16: what a head reads is a sum over all tokens, which the head norm alone brings into range."""
    return x.float() if x.dtype is torch.float16 else x


class MultiScaleRetention(nn.Module):
    """Project, rotate, retain, normalise each head, gate, project (eq. 8).

    One product gives query, key, value and gate; ``input_proj.weight`` holds their rows in that order.
    """

    def __init__(self, config: RetentionConfig) -> None:
        """Make the projections; the decays are constants of the config: in bfloat16 ``1 - 2**-9`` would be 1."""
        super().__init__()
        self.config = config
        keys, values = config.num_heads * config.key_dim, config.num_heads * config.value_dim
        self.sizes = (keys, keys, values, values)
        self.input_proj = nn.Linear(config.hidden_size, sum(self.sizes), bias=config.bias)
        self.output_proj = nn.Linear(values, config.hidden_size, bias=config.bias)
        self.head_norm = Norm(config.value_dim, config.head_norm)

    def initial_state(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> RetentionState:
        """A memory of nothing; float32 or wider whatever ``dtype`` the model has."""
        config = self.config
        shape = (batch, config.num_heads, config.key_dim, config.value_dim)
        kv = torch.zeros(shape, device=device, dtype=state_dtype(dtype))
        return RetentionState(kv=kv, position=torch.zeros(batch, dtype=torch.long, device=device))

    def _memory(self, x: Tensor) -> RetentionMatrix:
        return self.initial_state(x.shape[0], x.device, x.dtype).kv

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
        if x.ndim != 3 or x.shape[2] != self.config.hidden_size:
            raise ValueError(
                f"x must be (batch, time, hidden_size = {self.config.hidden_size}), but has shape {tuple(x.shape)}."
            )
        if layout is None:
            layout = self._layout(x, None if state is None else state.position)
        projected = self.input_proj(x)
        kv = None if state is None else state.kv
        # A compiler fuses real numbers and not complex ones, so it gets the general way.
        compiling = torch.compiler.is_compiling()
        if x.shape[1] == 1 and layout.mask is None and layout.starts is None and not compiling:
            kv = self._memory(projected) if kv is None else kv
            decay = self.recurrent_decay(kv.device, kv.dtype)
            mixed, kv = self._step(projected[:, 0], kv, layout.rotation, decay)
            mixed, gate = mixed.unsqueeze(2), projected[..., -self.sizes[-1] :]
        else:
            query, key, value, gate = projected.split(self.sizes, dim=-1)
            joint = not torch.is_grad_enabled() and self.config.rotary_pairs == "interleaved" and not compiling
            query, key, value = (
                self._heads_together(projected, layout) if joint else self._heads(query, key, value, layout)
            )
            mixed, kv = retention(
                query,
                key,
                value,
                kv,
                log_decay=_log_decay(self.config),
                mask=layout.mask,
                starts=layout.starts,
                chunk_size=self.config.chunk_size,
            )
        return self._finish(mixed, gate, layout), RetentionState(kv=kv, position=layout.next_position)

    def bound(self) -> BoundRetention | None:
        """`forward` for one token over the present parameters, see `retentive.layers.bound`; None if it cannot be."""
        if self.config.normalise_scores:
            return None
        read, write, norm = bind_linear(self.input_proj), bind_linear(self.output_proj), self.head_norm.bound()
        activate, gate_begin = GATES[self.config.gate], sum(self.sizes[:3])
        weight = self.input_proj.weight
        decay = self.recurrent_decay(weight.device, state_dtype(weight.dtype))

        def apply(x: Tensor, kv: Tensor, rotation: Tensor | None) -> tuple[Tensor, Tensor]:
            projected = read(x)
            mixed, kv = self._step(projected, kv, rotation, decay, overwrite=True)
            return write(activate(projected[:, gate_begin:]).mul_(norm(mixed).flatten(1))), kv

        return apply

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
        layout = self._layout(query, position)
        weights = self.input_proj.weight.split(self.sizes)
        bias = cast("Tensor | None", self.input_proj.bias)
        biases = (None,) * 4 if bias is None else bias.split(self.sizes)
        q, k, v, gate = (
            nn.functional.linear(part, weight, bias)
            for part, weight, bias in zip((query, key, value, query), weights, biases, strict=True)
        )
        if form == "recurrent":
            kv = self._memory(query) if state is None else state
            decay = self.recurrent_decay(kv.device, kv.dtype)
            mixed, kv = self._step(torch.cat((q, k, v), -1)[:, 0], kv, layout.rotation, decay)
            mixed = mixed.unsqueeze(2)
        else:
            heads = self._heads(q, k, v, layout)
            if form == "parallel":
                mixed, kv = retention_parallel(*heads, state, log_decay=_log_decay(self.config))
            else:
                size = self.config.chunk_size
                mixed, kv = retention_chunkwise(*heads, state, log_decay=_log_decay(self.config), chunk_size=size)
        return self._finish(mixed, gate, layout), kv

    def _layout(self, x: Tensor, position: Tensor | None) -> BatchLayout:
        batch, time, _ = x.shape
        rotary = self.config.rotary
        return make_layout(position, batch, time, rotary=rotary, device=x.device, dtype=x.dtype)

    def _heads(self, query: Tensor, key: Tensor, value: Tensor, layout: BatchLayout) -> tuple[Tensor, Tensor, Tensor]:
        """Split into heads, rotate query and key, scale the query by ``key_dim ** -0.5``."""
        scale = self.config.key_dim**-0.5
        batch, time, _ = query.shape
        query, key, value = _with_range(query), _with_range(key), _with_range(value)
        config = self.config
        q = query.view(batch, time, config.num_heads, config.key_dim).transpose(1, 2)
        k = key.view(batch, time, config.num_heads, config.key_dim).transpose(1, 2)
        v = value.view(batch, time, config.num_heads, config.value_dim).transpose(1, 2)
        if layout.cos is not None and layout.sin is not None:
            # Scaled tables scale the query in the pass that rotates it.
            q = rotate(q, layout.cos * scale, layout.sin * scale, pairs=config.rotary_pairs)
            k = rotate(k, layout.cos, layout.sin, pairs=config.rotary_pairs)
            return q, k, v
        return q * scale, k, v

    def _heads_together(
        self, projected: Float[Tensor, "batch time channels"], layout: BatchLayout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`_heads` with queries and keys rotated in one pass, without gradients."""
        config, (batch, time, _) = self.config, projected.shape
        keys, _, values, _ = self.sizes
        projected = _with_range(projected)
        both = projected[..., : 2 * keys].view(batch, time, 2, config.num_heads, config.key_dim).permute(0, 2, 3, 1, 4)
        value = projected[..., 2 * keys : 2 * keys + values].view(batch, time, config.num_heads, config.value_dim)
        if layout.rotation is None:
            return both[:, 0] * config.key_dim**-0.5, both[:, 1], value.transpose(1, 2)
        query, key = apply_rotary(both, layout.rotation).unbind(1)
        return query, key, value.transpose(1, 2)

    def _step(
        self,
        projected: Float[Tensor, "batch channels"],
        kv: RetentionMatrix,
        rotation: Complex[Tensor, "#batch 2 1 1 pairs"] | None,
        decay: Float[Tensor, "heads 1 1"],
        *,
        overwrite: bool = False,
    ) -> tuple[Float[Tensor, "batch heads value_dim"], RetentionMatrix]:
        """One token: query and key are rotated together, as small calls cost by their number."""
        config, batch, heads = self.config, projected.shape[0], self.config.num_heads
        keys, _, values, _ = self.sizes
        projected = _with_range(projected)
        both = projected[:, : 2 * keys].view(batch, 2, heads, config.key_dim)
        if rotation is None:
            query, key = both[:, 0] * config.key_dim**-0.5, both[:, 1]
        else:
            query, key = apply_rotary(both.unsqueeze(3), rotation, pairs=config.rotary_pairs).squeeze(3).unbind(1)
        value = projected[:, 2 * keys : 2 * keys + values].view(batch, heads, config.value_dim)
        return recurrent_step(query, key, value, kv, decay, overwrite=overwrite)

    def recurrent_decay(self, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "heads 1 1"]:
        """``gamma`` of every head: from float64, rounded once to the dtype of the state."""
        return _recurrent_decay(self.config, device, dtype)

    def _finish(
        self,
        mixed: Float[Tensor, "batch heads time value_dim"],
        gate: Float[Tensor, "batch time values"],
        layout: BatchLayout,
    ) -> Hidden:
        """Normalise each head, gate, project."""
        if not self.config.normalise_scores and may_overwrite(self.input_proj):
            return self._finish_over(mixed, gate)
        mixed = mixed.transpose(1, 2)
        if self.config.normalise_scores:
            mixed = mixed * _score_scale(_log_decay(self.config), layout.positions).to(mixed.dtype)
        return self.output_proj(GATES[self.config.gate](gate) * self.head_norm(mixed).flatten(2).to(gate.dtype))

    def _finish_over(
        self, mixed: Float[Tensor, "batch heads time value_dim"], gate: Float[Tensor, "batch time values"]
    ) -> Hidden:
        """The same where the gate's memory can take the product: long prompts are read a tenth faster."""
        batch, heads, time, value_dim = mixed.shape
        opened = IN_PLACE.get(self.config.gate, GATES[self.config.gate])(gate)
        opened.view(batch, time, heads, value_dim).mul_(self.head_norm(mixed).transpose(1, 2))
        return self.output_proj(opened.flatten(0, 1)).view(batch, time, -1)
