"""What a decoder asks of a mixer: of its config, of its layer, and of its state.

A mixer is the layer of a block in which tokens read one another. Its file holds a frozen config, the layer that the
config builds, and the state that the layer carries. Nobody outside asks which mixer it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.layers.batch_layout import BatchLayout, RotaryConfig, RotaryTables
from retentive.layers.token_place import TokenPlace
from retentive.shapes import Hidden
from retentive.state import StateShape


@runtime_checkable
class MixerConfig(Protocol):
    """A frozen config of a mixer; plain fields may stand for the properties.

    Attributes:
        hidden_size: Width of the residual stream.
        num_heads: Heads that read.
        rotary: The rotation of queries and keys that the layer needs; None without one.
        window: Tokens that attention reads at most, the token itself included; None for every other layer. A recurrent
            memory refuses a layer with a window: the memory tokens must be in reach of all others.
        state_is_bounded: Whether the state stops growing, however long a text becomes.
        state_shape: The ``shape`` of the states that the layer returns; states of any other shape are refused.
        takes_attention_mask: Whether tokens read exactly what ``BatchLayout.attention_mask`` allows, and earlier tokens
            can be recalled. Such a layer can read in both directions, and has `RecallingMixer`'s ``recall``.
        half_lives: Tokens after which each head has forgotten half; None where nothing fades at a fixed rate.
    """

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def rotary(self) -> RotaryConfig | None: ...
    @property
    def window(self) -> int | None: ...
    @property
    def state_is_bounded(self) -> bool: ...
    @property
    def state_shape(self) -> StateShape: ...
    @property
    def takes_attention_mask(self) -> bool: ...
    @property
    def half_lives(self) -> tuple[float, ...] | None: ...

    def build(self) -> "Mixer":
        """Make the layer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerSizes:
    """The sizes that a family gives to each of its mixers; a mixer uses those that mean something to it.

    Attributes:
        hidden_size: Width of the residual stream.
        num_heads: Heads.
        key_dim: Channels of one head's query and key.
        value_dim: Channels of one head's value; None is the mixer's own choice.
        num_kv_heads: Heads of keys and values, where they may be fewer; None is ``num_heads``.
        window: Tokens that a token sees, where a mixer has a window.
        rotary_base: Tokens in which the slowest pair of channels is rotated by about one radian.
        norm_epsilon: Added under the root of norms.
        bias: Whether projections have biases.
        dropout: Share of attention weights dropped in training.
        chunk_size: Tokens that a chunkwise form takes at a time.
    """

    hidden_size: int
    num_heads: int
    key_dim: int
    value_dim: int | None = None
    num_kv_heads: int | None = None
    window: int | None = None
    rotary_base: float = 10000.0
    norm_epsilon: float = 1e-6
    bias: bool = False
    dropout: float = 0.0
    chunk_size: int = 64


@dataclass(frozen=True, slots=True)
class InputProjection:
    """A projection that a mixer reads with, and the meaning of its rows, for the initialiser.

    Attributes:
        linear: The projection.
        rows: The number of output rows for each part, in order, such as ``{"query": 64, "key": 64, "value": 128}``.
    """

    linear: nn.Linear
    rows: Mapping[str, int]

    def parts(self) -> dict[str, Tensor]:
        """Return the weight's rows of each part."""
        return dict(zip(self.rows, self.linear.weight.split(list(self.rows.values())), strict=True))


@runtime_checkable
class Mixer(Protocol):
    """A layer in which tokens read one another: a module that ``MixerConfig.build`` makes."""

    output_proj: Any
    """The projection back to the residual stream, an ``nn.Linear`` or what has taken its place."""

    def initial_state(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> Any:
        """Return the state of rows that have read nothing: zeros, which ``restart`` fills in.

        Args:
            batch: Rows.
            device: Where it is made.
            dtype: Of the model; states are float32 or wider (`retentive.ops.precision.state_dtype`), caches may be of
                this dtype.
        """
        ...

    def __call__(self, x: Hidden, state: Any, layout: BatchLayout, /) -> tuple[Hidden, Any]:
        """Read the normalised residual stream ``x`` after ``state``: return the output and the new state.

        ``state`` None means the initial state. Padding (``layout.mask`` is False) changes neither the state nor a real
        token's output. Where ``layout.starts`` is True a document begins, at padding too: the row's state restarts
        before that column. If ``layout.is_one_token``, the call is ``step(x[:, 0], state, place_of(layout))``.
        """
        ...

    def step(
        self, x: Float[Tensor, "batch hidden"], state: Any, place: TokenPlace, /
    ) -> tuple[Float[Tensor, "batch hidden"], Any]:
        """Read one real token of each row after ``state``, which is never None; see `TokenPlace` for its rotation."""
        ...

    def input_projections(self) -> tuple[InputProjection, ...]:
        """Return the projections that the layer reads with, for the initialiser."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """Transformer-XL memory: hidden states of earlier tokens, for keys and values (arXiv:1901.02860).

    Attributes:
        hidden: What a block received for each of these tokens.
        rotary: Tables of their rotation; None without one.
        learns: Whether gradients flow into them and the weights that make keys and values of them.
    """

    hidden: Hidden
    rotary: RotaryTables | None = None
    learns: bool = True


@runtime_checkable
class RecallingMixer(Protocol):
    """A mixer that can read hidden states of earlier tokens once more (Transformer-XL, arXiv:1901.02860)."""

    def recall(self, recalled: Recalled) -> Any:
        """Return keys and values of hidden states, which make no queries."""
        ...


@runtime_checkable
class PartReadingMixer(Protocol):
    """A mixer that can read a part of a text while other processes read the others.

    Attributes:
        reads_parts: True. Where ``layout.parts`` is not None, ``state`` is that before the whole text and the state
            that is returned is that after it, the same in all processes; the tokens of this process's part read what
            stands before them in the parts of the others.
    """

    reads_parts: bool


def reads_parts(mixer: object) -> bool:
    """Whether a mixer says that it is a `PartReadingMixer`."""
    return isinstance(mixer, PartReadingMixer) and mixer.reads_parts


def missing_parts(part: object, protocol: type) -> tuple[str, ...]:
    """Names that a protocol asks for and a part does not have."""
    asked = (*protocol.__annotations__, *vars(protocol))
    # The class is asked first: properties are not computed for the question.
    return tuple(
        name for name in asked if not (name.startswith("_") or hasattr(type(part), name) or hasattr(part, name))
    )


def build_mixer(config: MixerConfig) -> Mixer:
    """Make the layer of a config, and check that it is what a decoder asks for.

    Raises:
        TypeError: If the layer lacks a part of `Mixer`, or its states have another shape than the config says.
    """
    mixer, name = config.build(), type(config).__name__
    if missing := missing_parts(mixer, Mixer):
        raise TypeError(
            f"{name}.build must make a layer with the parts of Mixer, but its {type(mixer).__name__} lacks "
            f"{', '.join(missing)}: see retentive.layers.mixers.protocol."
        )
    shape = mixer.initial_state(1, torch.device("meta"), torch.float32).shape
    if shape != config.state_shape:
        raise TypeError(
            f"{name}.state_shape must be the shape of its layer's states, but is {config.state_shape!r} where that of "
            f"{type(mixer).__name__}.initial_state is {shape!r}: make them equal."
        )
    return mixer
