"""The shape of the Transformer baseline."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from retentive.config_types import check_types
from retentive.layers.batch_layout import RotaryConfig
from retentive.layers.mixers.attention import AttentionConfig
from retentive.layers.norm import NormConfig
from retentive.models.decoder import DecoderConfig
from retentive.models.plain_decoder import PlainDecoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig(PlainDecoderConfig):
    """Shape of a Transformer; what is left out is today's custom (pre-norm, rotary, no biases).

    Further fields are those of `PlainDecoderConfig`.

    Attributes:
        num_heads: Query heads in a block.
        num_kv_heads: Key and value heads; None is ``num_heads``, fewer is grouped-query attention.
        head_dim: Channels of one head; None is ``hidden_size / num_heads``.
        intermediate_size: Channels inside the feed-forward; None is four times ``hidden_size``.
        final_norm: Norm between the last block and the head.
        positions: ``rotary``, ``learned`` or ``none``.
        max_positions: Tokens that learned positions reach; only with ``learned``.
        rotary_base: Tokens in which the slowest pair of channels is rotated by about one radian.
        rotary_frequencies: ``standard`` (RoFormer, Llama) or ``retnet`` (torchscale's RetNet).
        rotary_pairs: Channels that turn together: ``interleaved`` (RoFormer) or ``half`` (Llama).
        rotary_scaling: Slow the rotation for longer texts: ``(factor,)``, or Llama 3.1's ``(factor, low, high,
            length)``; see `rotary_frequencies`.
        window: A token sees itself and ``window - 1`` tokens before it; None sees all.
        head_norm: RMSNorm of each head's queries and keys before they are rotated (Qwen3).
        attention_bias: A bias in the projection to queries, keys and values.
        output_bias: A bias in the projection after the attention.
        feed_forward_bias: Biases in the feed-forward.
        head_bias: A bias in the head.
        scale_embeddings: Multiply embeddings by the root of ``hidden_size``.
        attention_dropout: Share of attention weights dropped in training.
    """

    family: ClassVar[str] = "transformer"

    num_kv_heads: int | None = None
    head_dim: int | None = None
    final_norm: bool = True
    positions: Literal["rotary", "learned", "none"] = "rotary"
    max_positions: int | None = None
    rotary_base: float = 10000.0
    rotary_frequencies: Literal["retnet", "standard"] = "standard"
    rotary_pairs: Literal["interleaved", "half"] = "interleaved"
    rotary_scaling: tuple[float, ...] | None = None
    window: int | None = None
    head_norm: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    head_bias: bool = False
    scale_embeddings: bool = False
    attention_dropout: float = 0.0
    initialisation: Literal["xavier", "normal"] = "normal"

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        self.check_sizes("head_dim")
        if self.positions not in ("rotary", "learned", "none"):
            raise ValueError(f"positions must be 'rotary', 'learned' or 'none', but is {self.positions!r}.")
        if (self.positions == "learned") != (self.max_positions is not None):
            raise ValueError(
                f"max_positions goes with positions='learned' and with nothing else, but positions is "
                f"{self.positions!r} and max_positions is {self.max_positions}."
            )
        rotary = (self.rotary_base, self.rotary_frequencies, self.rotary_pairs, self.rotary_scaling)
        if self.positions != "rotary" and rotary != (10000.0, "standard", "interleaved", None):
            raise ValueError(
                f"rotary_base, rotary_frequencies, rotary_pairs and rotary_scaling mean nothing with "
                f"positions={self.positions!r}, but are {rotary}; leave them at their defaults."
            )
        _ = self.decoder  # each part refuses what it cannot be

    @property
    def attention(self) -> AttentionConfig:
        """The mixer."""
        dim = self.hidden_size // self.num_heads if self.head_dim is None else self.head_dim
        rotary = None
        if self.positions == "rotary":
            rotary = RotaryConfig(
                dim=dim,
                base=self.rotary_base,
                frequencies=self.rotary_frequencies,
                pairs=self.rotary_pairs,
                scaling=self.rotary_scaling,
            )
        return AttentionConfig(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads if self.num_kv_heads is None else self.num_kv_heads,
            key_dim=dim,
            value_dim=dim,
            window=self.window,
            dropout=self.attention_dropout,
            bias=self.attention_bias,
            output_bias=self.output_bias,
            rotary=rotary,
            head_norm=NormConfig(epsilon=self.norm_epsilon) if self.head_norm else None,
        )

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts."""
        return self.decoder_of(
            (self.attention,) * self.num_layers,
            intermediate_size=4 * self.hidden_size if self.intermediate_size is None else self.intermediate_size,
            feed_forward_bias=self.feed_forward_bias,
            max_positions=self.max_positions,
            scale_embeddings=self.scale_embeddings,
            final_norm=self.final_norm,
            head_bias=self.head_bias,
        )
