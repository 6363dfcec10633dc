"""The shape of a RetNet."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from retentive.config_types import check_types
from retentive.layers.mixers.retention import RetentionConfig
from retentive.layers.norm import NormConfig
from retentive.models.decoder import DecoderConfig
from retentive.models.plain_decoder import PlainDecoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RetNetConfig(PlainDecoderConfig):
    """Shape of a RetNet; what is left out follows the paper (arXiv:2307.08621).

    Further fields are those of `PlainDecoderConfig`.

    Attributes:
        num_heads: Retention heads in a block, each with a decay of its own.
        key_dim: Channels of one head's query and key; None is ``hidden_size / num_heads``.
        value_dim: Channels of one head's value; None is twice ``key_dim``.
        head_norm: Norm of each head's output; ``layer_norm`` is the paper's GroupNorm.
        head_norm_affine: Whether the head norm has learned weights, shared by the heads.
        head_norm_epsilon: Added under the root of the head norm; None is ``norm_epsilon``.
        normalise_scores: Divide what a head reads at position n by the root of ``gamma ** 0 + ... + gamma ** n`` (the
            paper's section 2.4; torchscale). The head norm takes it back, but for its epsilon, which then weighs more.
        final_norm: Norm between the last block and the head.
        residual: ``pre_norm``, or ``deepnorm``: norms come after sums, and the residual stream is scaled
            (arXiv:2203.00555).
        decay: Schedule of the decays: the paper's ``linspace``, or ``geometric``.
        log_decay: The user's own ``log(gamma)``, one a head, in place of a schedule.
        relative_position: Rotate queries and keys by their positions.
        rotary_base: Tokens in which the slowest pair of channels is rotated by one radian.
        rotary_frequencies: ``retnet`` (torchscale) or ``standard`` (flash-linear-attention).
        rotary_pairs: Channels that turn together: ``interleaved`` (0 and 1, 2 and 3, ...; RetNet) or ``half`` (i and
            i + dim / 2); the one is the other with the rows of the projections in another order.
        gate: Activation of the output gate.
        bias: Biases in all projections.
        head_bias: A bias in the head.
        scale_embeddings: Multiply embeddings by the root of ``hidden_size``.
        embedding_norm: Norm of the embeddings, of the same kind as the others.
        max_positions: Add learned positions up to this many tokens; None adds none.
        chunk_size: Tokens that the chunkwise form takes at a time. Changes speed, never results.
    """

    family: ClassVar[str] = "retnet"

    key_dim: int | None = None
    value_dim: int | None = None
    head_norm: Literal["rms_norm", "layer_norm"] = "rms_norm"
    head_norm_affine: bool = False
    head_norm_epsilon: float | None = None
    normalise_scores: bool = False
    final_norm: bool = True
    residual: Literal["pre_norm", "deepnorm"] = "pre_norm"
    decay: Literal["geometric", "linspace"] = "linspace"
    log_decay: tuple[float, ...] | None = None
    relative_position: bool = True
    rotary_base: float = 10000.0
    rotary_frequencies: Literal["retnet", "standard"] = "retnet"
    rotary_pairs: Literal["interleaved", "half"] = "interleaved"
    gate: Literal["swish", "gelu", "relu"] = "swish"
    bias: bool = False
    head_bias: bool = False
    scale_embeddings: bool = False
    embedding_norm: bool = False
    max_positions: int | None = None
    chunk_size: int = 64

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        self.check_sizes("key_dim")
        if self.log_decay is not None and self.decay != "linspace":
            raise ValueError(f"decay means nothing beside log_decay, but is {self.decay!r}; leave it out.")
        _ = self.decoder  # each part refuses what it cannot be

    @property
    def head_key_dim(self) -> int:
        """Channels of one head's query and key."""
        return self.hidden_size // self.num_heads if self.key_dim is None else self.key_dim

    @property
    def retention(self) -> RetentionConfig:
        """The mixer."""
        return RetentionConfig(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            key_dim=self.head_key_dim,
            value_dim=2 * self.head_key_dim if self.value_dim is None else self.value_dim,
            decay=self.decay,
            log_decay=self.log_decay,
            relative_position=self.relative_position,
            rotary_base=self.rotary_base,
            rotary_frequencies=self.rotary_frequencies,
            rotary_pairs=self.rotary_pairs,
            gate=self.gate,
            head_norm=NormConfig(
                kind=self.head_norm,
                epsilon=self.norm_epsilon if self.head_norm_epsilon is None else self.head_norm_epsilon,
                affine=self.head_norm_affine,
            ),
            normalise_scores=self.normalise_scores,
            bias=self.bias,
            chunk_size=self.chunk_size,
        )

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts."""
        return self.decoder_of(
            (self.retention,) * self.num_layers,
            intermediate_size=2 * self.hidden_size if self.intermediate_size is None else self.intermediate_size,
            feed_forward_bias=self.bias,
            max_positions=self.max_positions,
            scale_embeddings=self.scale_embeddings,
            embedding_norm=self.embedding_norm,
            final_norm=self.final_norm,
            head_bias=self.head_bias,
            residual=self.residual,
        )
