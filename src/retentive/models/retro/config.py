"""The shape of a RETRO around a decoder."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from retentive.config_types import check_count, check_counts, check_types
from retentive.layers.batch_layout import RotaryConfig
from retentive.layers.cross_attention import CrossAttentionConfig
from retentive.layers.feed_forward import Activation, FeedForwardConfig
from retentive.layers.norm import NormConfig, NormKind
from retentive.models.decoder import DecoderConfig
from retentive.models.protocol import ChunkedReading, FamilyConfig
from retentive.models.registry import check_is_plain
from retentive.renaming import renamed


@renamed(base="backbone")
@dataclass(frozen=True, slots=True, kw_only=True)
class RetroConfig:
    """Shape of a RETRO; what is left out follows the paper (Borgeaud et al. 2021, arXiv:2112.04426).

    Layers are numbered from 1, as in the paper.

    Attributes:
        backbone: Config of the decoder that the RETRO is built around: of any family that is a plain decoder.
        chunk_size: Tokens of a chunk, m. Neighbours are found for a chunk once it has ended.
        cross_layers: Layers of the decoder in which tokens read neighbours, ascending.
        encoder_hidden_size: Width of the neighbours' encoder.
        encoder_num_layers: Its layers.
        encoder_num_heads: Heads in each of them.
        encoder_head_dim: Channels of such a head; None is ``encoder_hidden_size / encoder_num_heads``.
        encoder_intermediate_size: Channels inside the encoder's feed-forward; None is four times
            ``encoder_hidden_size``.
        encoder_cross_layers: Layers of the encoder in which neighbours read the chunk that they were found for.
        cross_num_heads: Heads with which tokens read neighbours; None is as many as the decoder has.
        cross_head_dim: Channels of such a head; None is the decoder's ``hidden_size / cross_num_heads``.
        relative_position: Scores in the encoder and between tokens and neighbours depend on distances, by rotation.
        share_embeddings: The encoder looks tokens up in the decoder's table (and projects them, if its width differs).
        norm: Norm in the encoder and of what reads neighbours: ``rms_norm``, ``layer_norm`` or ``gated_rms_norm``.
        norm_epsilon: Added under the root of these norms.
        activation: Activation of the encoder's feed-forward.
        gated: Gate it by a second branch (GLU).
        residual: ``pre_norm``, or ``deepnorm`` in the decoder and the encoder: norms come after sums, and the residual
            stream is scaled (arXiv:2203.00555). A decoder with ``deepnorm`` needs it.
        encoder_dropout: Share of the encoder's embedding and of each layer's output dropped in training.
        encoder_attention_dropout: Share of attention weights dropped in the encoder.
        cross_dropout: Share of what was read from neighbours dropped in training.
        cross_attention_dropout: Share of attention weights to neighbours dropped.
        chunk_offset: Tokens at the begin of a document that belong to no chunk: 1 where documents begin with an
            end-of-text token that is not in the datastore, so that chunks are those of the datastore.
    """

    family: ClassVar[str] = "retro"

    backbone: FamilyConfig
    chunk_size: int
    cross_layers: tuple[int, ...]
    encoder_hidden_size: int
    encoder_num_layers: int
    encoder_num_heads: int
    encoder_head_dim: int | None = None
    encoder_intermediate_size: int | None = None
    encoder_cross_layers: tuple[int, ...] = (1,)
    cross_num_heads: int | None = None
    cross_head_dim: int | None = None
    relative_position: bool = True
    share_embeddings: bool = False
    norm: NormKind = "rms_norm"
    norm_epsilon: float = 1e-6
    activation: Activation = "gelu"
    gated: bool = False
    residual: Literal["pre_norm", "deepnorm"] = "pre_norm"
    encoder_dropout: float = 0.0
    encoder_attention_dropout: float = 0.0
    cross_dropout: float = 0.0
    cross_attention_dropout: float = 0.0
    chunk_offset: int = 0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_is_plain("backbone", self.backbone)
        if self.backbone.decoder.residual not in ("pre_norm", self.residual):
            raise ValueError(
                f"residual must be {self.backbone.decoder.residual!r}, as of the backbone, but is {self.residual!r}; "
                "it decides for both."
            )
        check_counts(self, "chunk_size", "encoder_num_layers", "encoder_num_heads")
        check_count("chunk_offset", self.chunk_offset, least=0)
        _check_layers("cross_layers", self.cross_layers, self.backbone.decoder.num_layers, "the backbone")
        _check_layers("encoder_cross_layers", self.encoder_cross_layers, self.encoder_num_layers, "the encoder")
        if not self.cross_layers:
            raise ValueError("cross_layers must name at least one layer, else neighbours are never read.")
        for name in ("encoder_dropout", "encoder_attention_dropout", "cross_dropout", "cross_attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, but is {getattr(self, name)}.")
        self._check_heads()
        # Each part validates its own fields.
        _ = self.decoder, self.cross_norm, self.cross_attention, self.encoder_attention, self.encoder_feed_forward

    def _check_heads(self) -> None:
        heads = self.backbone.decoder.num_heads if self.cross_num_heads is None else self.cross_num_heads
        if heads < 1:
            raise ValueError(f"cross_num_heads must be at least 1, but is {heads}.")
        for size, number, dim, names in (
            (
                self.hidden_size,
                heads,
                self.cross_head_dim,
                ("hidden_size of the backbone", "cross_num_heads", "cross_head_dim"),
            ),
            (
                self.encoder_hidden_size,
                self.encoder_num_heads,
                self.encoder_head_dim,
                ("encoder_hidden_size", "encoder_num_heads", "encoder_head_dim"),
            ),
        ):
            if dim is None and size % number:
                raise ValueError(
                    f"{names[0]} must be a multiple of {names[1]}, but {size} / {number} is not whole; change one, or "
                    f"give {names[2]}."
                )

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.backbone.decoder.embedding.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the decoder's residual stream."""
        return self.backbone.decoder.embedding.hidden_size

    @property
    def chunked_reading(self) -> ChunkedReading:
        """The chunks whose neighbours the model reads."""
        return ChunkedReading(chunk_size=self.chunk_size, chunk_offset=self.chunk_offset)

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts, without the layers that read neighbours."""
        return replace(self.backbone.decoder, residual=self.residual)

    @property
    def cross_norm(self) -> NormConfig:
        """Norms of the encoder and of what reads neighbours."""
        return NormConfig(kind=self.norm, epsilon=self.norm_epsilon)

    @property
    def cross_attention(self) -> CrossAttentionConfig:
        """How tokens read neighbours."""
        heads = self.backbone.decoder.num_heads if self.cross_num_heads is None else self.cross_num_heads
        dim = self.hidden_size // heads if self.cross_head_dim is None else self.cross_head_dim
        return CrossAttentionConfig(
            hidden_size=self.hidden_size,
            memory_size=self.encoder_hidden_size,
            num_heads=heads,
            head_dim=dim,
            dropout=self.cross_attention_dropout,
            rotary=self._rotary(dim),
        )

    @property
    def encoder_attention(self) -> CrossAttentionConfig:
        """How the tokens of a neighbour read one another."""
        dim = self.encoder_head_dim
        dim = self.encoder_hidden_size // self.encoder_num_heads if dim is None else dim
        return CrossAttentionConfig(
            hidden_size=self.encoder_hidden_size,
            memory_size=self.encoder_hidden_size,
            num_heads=self.encoder_num_heads,
            head_dim=dim,
            dropout=self.encoder_attention_dropout,
            rotary=self._rotary(dim),
        )

    @property
    def encoder_cross_attention(self) -> CrossAttentionConfig:
        """How they read the chunk that the neighbour was found for."""
        return replace(self.encoder_attention, memory_size=self.hidden_size)

    @property
    def encoder_feed_forward(self) -> FeedForwardConfig:
        """The other half of an encoder's layer."""
        inner = self.encoder_intermediate_size
        return FeedForwardConfig(
            hidden_size=self.encoder_hidden_size,
            intermediate_size=4 * self.encoder_hidden_size if inner is None else inner,
            activation=self.activation,
            gated=self.gated,
        )

    @property
    def encoder_residual_scale(self) -> float | None:
        """DeepNorm's scale of the encoder's residual stream; None without it."""
        return None if self.residual == "pre_norm" else (2 * self.encoder_num_layers) ** 0.25

    def _rotary(self, dim: int) -> RotaryConfig | None:
        return RotaryConfig(dim=dim, frequencies="standard") if self.relative_position else None


def _check_layers(name: str, layers: tuple[int, ...], count: int, whose: str) -> None:
    if list(layers) != sorted(set(layers)) or any(not 1 <= layer <= count for layer in layers):
        raise ValueError(
            f"{name} must be different layers of {whose} in ascending order, from 1 to {count}, but are {layers}; give "
            f"{name} of {whose}'s {count} layers, or make it deeper."
        )
