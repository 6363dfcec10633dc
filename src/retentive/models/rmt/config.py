"""The shape of a recurrent memory around a decoder."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from retentive.config_types import check_types
from retentive.layers.memory.associative import AssociativeMemoryConfig
from retentive.layers.memory.kind import check_memory_kind, refuse_unused
from retentive.layers.memory.tokens import MemoryTokensConfig
from retentive.models.decoder import DecoderConfig
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import check_is_plain

TOKENS_ONLY = (
    "read_first",
    "write_start",
    "write_gradient",
    "memory_code",
    "memory_flips",
    "memory_noise",
)
"""Options of a memory of tokens; without one they must be left out."""


@lru_cache(maxsize=64)
def _decoder(backbone: FamilyConfig) -> DecoderConfig:
    """The backbone's decoder, cached because every generated token needs it."""
    return backbone.decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentMemoryConfig:
    """Shape of a Recurrent Memory Transformer; what is left out follows the paper (arXiv:2207.06881).

    Attributes:
        backbone: Config of the decoder that the memory is built around: of any family that is a plain decoder.
        segment_length: Tokens of a segment.
        num_memory_tokens: Memory tokens; 0 has no memory, the baseline that a memory is compared with.
        memory: ``tokens`` carries the write slots' output to the next segment; ``associative`` stores it in a memory of
            each block that all later tokens read (ARMT, arXiv:2407.04841), and passes no tokens on.
        associative_dim: Channels of an associative key; only with ``associative``.
        associative_features: Degree of the associative features; only with ``associative``.
        associative_normaliser: ``published`` divides what is recalled as the authors do; ``bounded`` keeps it as large
            as what was stored; see `AssociativeMemoryConfig`. Only with ``associative``.
        bidirectional: Tokens of a segment see one another, as in an encoder. There is then one block of memory tokens,
            before the segment, as in the papers; the next call reads an unfinished segment again. It predicts masked
            tokens and classes; it cannot predict the next token, which it has already seen.
        causal_memory: Memory tokens see only those before them; else all memory tokens of a block see one another.
        read_first: The first segment of a document reads the learned memory; else it reads none.
        write_start: The vectors in the write slots before the segment is read: those of the ``memory`` that it reads,
            or ``learned`` ones.
        write_gradient: Whether gradients flow from the write slots into the memory that they start from.
        memory_code: ``continuous`` carries what was written as it is; ``sign`` only its signs, with a straight-through
            gradient, which holds over any number of segments.
        memory_flips: Share of the signs flipped at random in training.
        memory_noise: Noise added to a continuous memory in training, as a share of its root mean square.
        xl_length: Tokens at the end of the segment before whose hidden states are read as well (arXiv:1901.02860); at
            most ``segment_length``.
        xl_gradient: What learns from those hidden states: ``states`` lets gradients flow into the segment before,
            ``weights`` only into the weights that make keys and values of them (Transformer-XL, arXiv:1901.02860),
            ``none`` takes keys and values as constants, which makes a training step shorter.
        xl_layer_above: A block reads what it returned for those tokens, not what it received (ERNIE-Doc,
            arXiv:2012.15688): they reach back a layer further with each segment.
        token_shift: Half of a token's embedding is that of the token before it in the segment, which gives order to
            backbones without positions.
        embedding_gradient: Share of the gradient that reaches the embeddings of tokens and positions, 0 to 1
            (CogView, arXiv:2105.13290).
    """

    family: ClassVar[str] = "rmt"

    backbone: FamilyConfig
    segment_length: int
    num_memory_tokens: int
    memory: Literal["tokens", "associative"] = "tokens"
    associative_dim: int | None = None
    associative_features: int = 3
    associative_normaliser: Literal["bounded", "published"] = "bounded"
    bidirectional: bool = False
    causal_memory: bool = False
    read_first: bool = True
    write_start: Literal["memory", "learned"] = "memory"
    write_gradient: bool = True
    memory_code: Literal["continuous", "sign"] = "continuous"
    memory_flips: float = 0.0
    memory_noise: float = 0.0
    xl_length: int = 0
    xl_gradient: Literal["states", "weights", "none"] = "weights"
    xl_layer_above: bool = False
    token_shift: bool = False
    embedding_gradient: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_is_plain("backbone", self.backbone)
        if self.segment_length < 1:
            raise ValueError(f"segment_length must be at least 1 token, but is {self.segment_length}.")
        self._check_backbone()
        self._check_memory()
        self._check_xl()
        if not 0 <= self.embedding_gradient <= 1:
            raise ValueError(f"embedding_gradient must be a share from 0 to 1, but is {self.embedding_gradient}.")
        if self.token_shift and self.decoder.embedding.hidden_size % 2:
            raise ValueError(
                f"token_shift shifts half of the channels, so hidden_size must be even, but is "
                f"{self.decoder.embedding.hidden_size}."
            )

    def _check_backbone(self) -> None:
        longest = self.decoder.embedding.max_positions
        if longest is not None and self.segment_length > longest:
            raise ValueError(
                f"segment_length must be at most the learned positions of the backbone, max_positions = {longest}, but "
                f"is {self.segment_length}; positions count from the begin of each segment."
            )
        for mixer in self.decoder.mixers:
            if mixer.window is not None:
                raise ValueError(
                    "window must be None in the backbone, whose segments already limit what is read, but is "
                    f"{mixer.window}; use a shorter segment_length, with xl_length for what came before."
                )
        if self.decoder.takes_attention_mask:
            return
        if self.bidirectional or self.xl_length or (self.num_memory_tokens > 1 and not self.causal_memory):
            raise ValueError(
                "a backbone with retention, or any mixer that takes no attention mask, needs bidirectional=False, "
                f"xl_length=0 and causal_memory=True, not {self.bidirectional}, {self.xl_length} and "
                f"{self.causal_memory}."
            )

    def _check_memory(self) -> None:
        check_memory_kind(self, TOKENS_ONLY)
        if self.num_memory_tokens < 2:
            refuse_unused(self, ("causal_memory",), f"num_memory_tokens={self.num_memory_tokens}")
        if self.bidirectional:
            refuse_unused(
                self,
                ("causal_memory", "read_first", "write_start", "write_gradient"),
                "bidirectional=True, which has one block of memory tokens",
            )
            if self.memory == "associative":
                raise ValueError("memory must be 'tokens' with bidirectional=True, but is 'associative'.")
        _ = self.memory_tokens, self.associative_memory  # each part validates its own fields

    def _check_xl(self) -> None:
        if not 0 <= self.xl_length <= self.segment_length:
            raise ValueError(
                f"xl_length must be from 0 to segment_length = {self.segment_length}, for one segment is remembered, "
                f"but is {self.xl_length}; lengthen the segment."
            )
        if self.xl_gradient not in ("states", "weights", "none"):
            raise ValueError(f"xl_gradient must be 'states', 'weights' or 'none', but is {self.xl_gradient!r}.")
        if not self.xl_length:
            refuse_unused(self, ("xl_gradient", "xl_layer_above"), "xl_length=0")

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.decoder.embedding.vocab_size

    @property
    def carried_tokens(self) -> int:
        """Memory tokens that pass from segment to segment."""
        return self.num_memory_tokens if self.memory == "tokens" else 0

    @property
    def chunked_reading(self) -> None:
        """None: the model reads no neighbours."""
        return None

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts."""
        return _decoder(self.backbone)

    @property
    def memory_tokens(self) -> MemoryTokensConfig:
        """The memory tokens."""
        carried = self.memory == "tokens"
        return MemoryTokensConfig(
            hidden_size=self.decoder.embedding.hidden_size,
            num_tokens=self.num_memory_tokens,
            carried=carried,
            learned=self.read_first or self.write_start == "memory",
            write_start=self.write_start if carried else "learned",
            write_gradient=self.write_gradient,
            code=self.memory_code,
            flips=self.memory_flips,
            noise=self.memory_noise,
        )

    @property
    def associative_memory(self) -> AssociativeMemoryConfig | None:
        """The associative memory of each block."""
        if self.associative_dim is None:
            return None
        return AssociativeMemoryConfig(
            hidden_size=self.decoder.embedding.hidden_size,
            key_dim=self.associative_dim,
            features=self.associative_features,
            normaliser=self.associative_normaliser,
        )
