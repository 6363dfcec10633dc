"""The shape of a hybrid model."""

from dataclasses import dataclass, fields
from typing import ClassVar

from retentive.config_types import check_types
from retentive.layers.mixers.protocol import MixerConfig, MixerSizes
from retentive.layers.mixers.registry import kind_of, make_mixer
from retentive.models.decoder import DecoderConfig
from retentive.models.plain_decoder import PlainDecoderConfig

_OPTIONS = {
    "value_dim": "value_dim",
    "num_kv_heads": "num_kv_heads",
    "window": "window",
    "rotary_base": "rotary_base",
    "mixer_bias": "bias",
    "attention_dropout": "dropout",
    "chunk_size": "chunk_size",
}
"""Options that only some mixers take, by their names in `MixerSizes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig(PlainDecoderConfig):
    """Shape of a hybrid model, whose blocks have the mixers of a pattern.

    Further fields are those of `PlainDecoderConfig`.

    Attributes:
        pattern: Names of mixers, repeated until there is one for each block: ``retention``, ``gated_retention``,
            ``attention``, ``window_attention``, or one that `register_mixer` added.
        num_kv_heads: Key and value heads of attention; None is ``num_heads``, fewer is grouped-query attention.
        key_dim: Channels of one head's query and key; None is ``hidden_size / num_heads``.
        value_dim: Channels of one head's value; None is the mixer's own choice: twice ``key_dim`` in retention,
            ``key_dim`` in attention.
        window: Tokens that ``window_attention`` sees, a token itself included.
        final_norm: Norm between the last block and the head.
        rotary_base: Tokens in which the slowest pair of channels is rotated by about one radian.
        mixer_bias: Biases in the mixers' projections.
        feed_forward_bias: Biases in the feed-forward.
        head_bias: A bias in the head.
        attention_dropout: Share of attention weights dropped in training.
        chunk_size: Tokens that chunkwise forms take at a time. Changes speed, never results.
    """

    family: ClassVar[str] = "hybrid"

    pattern: tuple[str, ...]
    num_kv_heads: int | None = None
    key_dim: int | None = None
    value_dim: int | None = None
    window: int | None = None
    final_norm: bool = True
    rotary_base: float = 10000.0
    mixer_bias: bool = False
    feed_forward_bias: bool = False
    head_bias: bool = False
    attention_dropout: float = 0.0
    chunk_size: int = 64

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        self.check_sizes("key_dim")
        self._check_pattern()
        _ = self.decoder  # each part validates its own fields

    def _check_pattern(self) -> None:
        if isinstance(self.pattern, str) or not self.pattern:
            raise ValueError(f"pattern must be at least one name of a mixer in a tuple, but is {self.pattern!r}.")
        if len(self.pattern) > self.num_layers:
            raise ValueError(
                f"pattern must have at most num_layers = {self.num_layers} mixers, but has {len(self.pattern)}; give "
                "the model more layers, or shorten the pattern."
            )
        taken = frozenset[str]().union(*(kind_of(name).options for name in self.pattern))
        defaults = {field.name: field.default for field in fields(self)}
        for option, size in _OPTIONS.items():
            given = getattr(self, option)
            if size not in taken and given != defaults[option]:
                raise ValueError(
                    f"{option} means nothing to the mixers {', '.join(self.pattern)}, but is {given!r}; "
                    f"leave it at {defaults[option]!r}. (A mixer of your own names {size!r} in the options of "
                    "register_mixer, if it takes it.)"
                )

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        """The mixer of each block."""
        sizes = MixerSizes(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            key_dim=self.hidden_size // self.num_heads if self.key_dim is None else self.key_dim,
            value_dim=self.value_dim,
            num_kv_heads=self.num_kv_heads,
            window=self.window,
            rotary_base=self.rotary_base,
            norm_epsilon=self.norm_epsilon,
            bias=self.mixer_bias,
            dropout=self.attention_dropout,
            chunk_size=self.chunk_size,
        )
        made = {name: make_mixer(name, sizes) for name in self.pattern}
        return tuple(made[self.pattern[number % len(self.pattern)]] for number in range(self.num_layers))

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts."""
        return self.decoder_of(
            self.mixers,
            intermediate_size=2 * self.hidden_size if self.intermediate_size is None else self.intermediate_size,
            feed_forward_bias=self.feed_forward_bias,
            final_norm=self.final_norm,
            head_bias=self.head_bias,
        )
