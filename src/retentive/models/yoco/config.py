"""The shape of a YOCO."""

from dataclasses import dataclass
from typing import ClassVar

from retentive.config_types import check_types
from retentive.layers.batch_layout import RotaryConfig
from retentive.layers.feed_forward import Activation
from retentive.layers.mixers.protocol import MixerConfig, MixerSizes
from retentive.layers.mixers.registry import kind_of, make_mixer
from retentive.layers.mixers.shared_cache_attention import SharedCacheAttentionConfig
from retentive.models.decoder import DecoderConfig
from retentive.models.plain_decoder import PlainDecoderConfig

_CHUNK_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class YocoConfig(PlainDecoderConfig):
    """Shape of a YOCO; what is left out follows the paper (arXiv:2405.05254).

    Further fields are those of `PlainDecoderConfig`.

    Attributes:
        num_layers: Blocks: the first half is the self-decoder, the other half the cross-decoder.
        num_heads: Query heads of the cross-decoder.
        num_kv_heads: Key and value heads of the cache, and of a window attention; None is ``num_heads``, fewer is
            grouped-query attention.
        self_mixer: Mixer of the self-decoder: ``gated_retention``, ``retention``, ``window_attention``, or one that
            `register_mixer` added and whose state stops growing.
        self_num_heads: Heads of that mixer; None is ``num_heads``.
        window: Tokens that ``window_attention`` sees, a token itself included.
        intermediate_size: Channels inside the feed-forward; None is 8/3 of ``hidden_size``, rounded up to a multiple of
            8, where it is gated, and four times ``hidden_size`` where not.
        gated: Gate the feed-forward by a second branch; with ``swish`` it is SwiGLU (arXiv:2002.05202).
        norm: Norm before each half of a block and before the cache: ``rms_norm``, ``layer_norm`` or
            ``gated_rms_norm``.
        rotary_base: Tokens in which the slowest pair of channels is rotated by about one radian.
        chunk_size: Tokens that chunkwise forms take at a time. Changes speed, never results.
    """

    family: ClassVar[str] = "yoco"

    num_kv_heads: int | None = None
    self_mixer: str = "gated_retention"
    self_num_heads: int | None = None
    window: int | None = None
    activation: Activation = "swish"
    gated: bool = True
    rotary_base: float = 10000.0
    chunk_size: int = _CHUNK_SIZE

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.num_layers < 2 or self.num_layers % 2:
            raise ValueError(
                f"num_layers must be even and at least 2, half of them for each decoder, but is {self.num_layers}."
            )
        for name in ("num_heads", "self_num_heads"):
            heads = getattr(self, name)
            if heads is None:
                continue
            if heads < 1:
                raise ValueError(f"{name} must be at least 1, but is {heads}.")
            if self.hidden_size % heads:
                raise ValueError(
                    f"hidden_size must be a multiple of {name}, but {self.hidden_size} / {heads} is not whole; "
                    "change one."
                )
        self._check_self_mixer()
        _ = self.decoder  # each part validates its own fields

    def _check_self_mixer(self) -> None:
        taken = kind_of(self.self_mixer).options
        for name, default in (("window", None), ("chunk_size", _CHUNK_SIZE)):
            given = getattr(self, name)
            if name not in taken and given != default:
                raise ValueError(
                    f"{name} means nothing to self_mixer={self.self_mixer!r}, but is {given}; leave it at {default}."
                )
        if not self.self_attention.state_is_bounded:
            raise ValueError(
                f"self_mixer must have a state that stops growing, but {self.self_mixer!r} remembers every token by "
                "itself; take 'window_attention', or a kind of retention."
            )

    @property
    def num_self_layers(self) -> int:
        """Blocks of the self-decoder, which come first."""
        return self.num_layers // 2

    @property
    def self_attention(self) -> MixerConfig:
        """The mixer of the self-decoder: efficient self-attention, in the paper's words."""
        heads = self.num_heads if self.self_num_heads is None else self.self_num_heads
        sizes = MixerSizes(
            hidden_size=self.hidden_size,
            num_heads=heads,
            key_dim=self.hidden_size // heads,
            num_kv_heads=self.num_kv_heads,
            window=self.window,
            rotary_base=self.rotary_base,
            norm_epsilon=self.norm_epsilon,
            chunk_size=self.chunk_size,
        )
        return make_mixer(self.self_mixer, sizes)

    @property
    def cross_attention(self) -> SharedCacheAttentionConfig:
        """The mixer of the cross-decoder."""
        head_dim = self.hidden_size // self.num_heads
        return SharedCacheAttentionConfig(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads if self.num_kv_heads is None else self.num_kv_heads,
            head_dim=head_dim,
            rotary=RotaryConfig(dim=head_dim, base=self.rotary_base, frequencies="standard"),
        )

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts."""
        inner = self._default_intermediate_size if self.intermediate_size is None else self.intermediate_size
        half = self.num_self_layers
        mixers = (self.self_attention,) * half + (self.cross_attention,) * half
        return self.decoder_of(mixers, intermediate_size=inner)

    @property
    def _default_intermediate_size(self) -> int:
        return -(-self.hidden_size // 3) * 8 if self.gated else 4 * self.hidden_size
