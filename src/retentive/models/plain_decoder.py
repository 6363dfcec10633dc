"""What the flat configs of plain decoders have in common."""

from dataclasses import dataclass
from typing import Literal

from retentive.config_types import check_counts
from retentive.layers.embedding import EmbeddingConfig
from retentive.layers.feed_forward import Activation, FeedForwardConfig
from retentive.layers.mixers.protocol import MixerConfig
from retentive.layers.norm import NormConfig, NormKind
from retentive.models.decoder import DecoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainDecoderConfig:
    """The fields that the config of every plain decoder has, their checks, and the parts that are made of them.

    Attributes:
        vocab_size: Number of token ids.
        hidden_size: Width of the residual stream, in channels.
        num_layers: Blocks.
        num_heads: Heads of each mixer.
        intermediate_size: Channels inside the feed-forward; None is twice ``hidden_size``.
        activation: Activation of the feed-forward.
        gated: Gate the feed-forward by a second branch (GLU).
        norm: Norm before each half of a block: ``rms_norm``, ``layer_norm`` or ``gated_rms_norm``.
        norm_epsilon: Added under the root of every norm.
        tie_embeddings: Use the token table as the head.
        dropout: Share of the embedding and of each half's output dropped in training.
        initialisation: ``xavier`` (torchscale's) or ``normal`` (GPT-2's).
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int | None = None
    activation: Activation = "gelu"
    gated: bool = False
    norm: NormKind = "rms_norm"
    norm_epsilon: float = 1e-6
    tie_embeddings: bool = False
    dropout: float = 0.0
    initialisation: Literal["xavier", "normal"] = "xavier"

    @property
    def chunked_reading(self) -> None:
        """None: the model reads no neighbours."""
        return

    def check_sizes(self, head_dim: str) -> None:
        """Validate the numbers of layers and heads; ``head_dim`` is the field that can give the width of a head.

        Raises:
            ValueError: If one is below 1, or heads have no whole number of channels.
        """
        check_counts(self, "num_layers", "num_heads")
        if getattr(self, head_dim) is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads, but {self.hidden_size} / {self.num_heads} is not whole; "
                f"change one, or give {head_dim}."
            )

    def decoder_of(
        self,
        mixers: tuple[MixerConfig, ...],
        *,
        intermediate_size: int,
        feed_forward_bias: bool = False,
        max_positions: int | None = None,
        scale_embeddings: bool = False,
        embedding_norm: bool = False,
        final_norm: bool = True,
        head_bias: bool = False,
        residual: Literal["pre_norm", "deepnorm"] = "pre_norm",
    ) -> DecoderConfig:
        """Make the decoder's parts.

        Args:
            mixers: Of each block.
            intermediate_size: Channels inside the feed-forward.
            feed_forward_bias: See `FeedForwardConfig`.
            max_positions: See `EmbeddingConfig`.
            scale_embeddings: See there.
            embedding_norm: Whether embeddings have a norm, of the same kind as the blocks.
            final_norm: See `DecoderConfig`, like the next two.
            head_bias: See there.
            residual: See there.
        """
        norm = NormConfig(kind=self.norm, epsilon=self.norm_epsilon)
        return DecoderConfig(
            embedding=EmbeddingConfig(
                vocab_size=self.vocab_size,
                hidden_size=self.hidden_size,
                max_positions=max_positions,
                scale=scale_embeddings,
                norm=norm if embedding_norm else None,
            ),
            mixers=mixers,
            feed_forward=FeedForwardConfig(
                hidden_size=self.hidden_size,
                intermediate_size=intermediate_size,
                activation=self.activation,
                gated=self.gated,
                bias=feed_forward_bias,
            ),
            norm=norm,
            final_norm=final_norm,
            tie_embeddings=self.tie_embeddings,
            head_bias=head_bias,
            dropout=self.dropout,
            initialisation=self.initialisation,
            residual=residual,
        )
