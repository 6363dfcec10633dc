"""How a memory goes around a model of Hugging Face, and which models it can go around."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from retentive.config_types import check_types
from retentive.layers.memory.associative import AssociativeMemoryConfig
from retentive.layers.memory.kind import check_memory_kind
from retentive.layers.memory.tokens import MemoryTokensConfig

_TOKENS_ONLY = ("write_start", "memory_code", "memory_flips", "memory_noise")
"""Options of a memory of tokens; without one they must be left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceMemoryConfig:
    """How a memory goes around a model.

    Attributes:
        segment_length: Tokens of a segment.
        num_memory_tokens: Memory tokens; 0 has no memory, the baseline that a memory is compared with.
        memory: ``tokens`` carries the write slots' output to the next segment; ``associative`` stores it in a memory of
            each block that all later tokens read (ARMT, arXiv:2407.04841), and passes no tokens on.
        associative_dim: Channels of an associative key; only with ``associative``.
        associative_features: Degree of the associative features; only with ``associative``.
        associative_normaliser: ``published`` divides what is recalled as the authors do; ``bounded`` keeps it as large
            as what was stored; see `AssociativeMemoryConfig`. Only with ``associative``.
        write_start: What stands in the write slots before the segment has been read: the ``memory`` that it read, or
            tokens that are ``learned``.
        memory_code: ``continuous`` carries what was written as it is; ``sign`` only its signs, which holds over any
            number of segments.
        memory_flips: Share of the signs turned at random in training.
        memory_noise: Noise added to a continuous memory in training, as a share of its root mean square.
    """

    family: ClassVar[str] = "huggingface_memory"

    segment_length: int
    num_memory_tokens: int
    memory: Literal["tokens", "associative"] = "tokens"
    associative_dim: int | None = None
    associative_features: int = 3
    associative_normaliser: Literal["bounded", "published"] = "bounded"
    write_start: Literal["memory", "learned"] = "memory"
    memory_code: Literal["continuous", "sign"] = "continuous"
    memory_flips: float = 0.0
    memory_noise: float = 0.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.segment_length < 1:
            raise ValueError(f"segment_length must be at least 1 token, but is {self.segment_length}.")
        check_memory_kind(self, _TOKENS_ONLY)
        _ = self.memory_tokens(1), self.associative_memory(1)  # each part validates its own fields

    @property
    def carried_tokens(self) -> int:
        """Memory tokens that pass from segment to segment."""
        return self.num_memory_tokens if self.memory == "tokens" else 0

    def memory_tokens(self, hidden_size: int) -> MemoryTokensConfig:
        """The memory tokens of a model of this width."""
        carried = self.memory == "tokens"
        return MemoryTokensConfig(
            hidden_size=hidden_size,
            num_tokens=self.num_memory_tokens,
            carried=carried,
            write_start=self.write_start if carried else "learned",
            code=self.memory_code,
            flips=self.memory_flips,
            noise=self.memory_noise,
        )

    def associative_memory(self, hidden_size: int) -> AssociativeMemoryConfig | None:
        """The associative memory of each block of a model of this width; None without one."""
        if self.associative_dim is None:
            return None
        return AssociativeMemoryConfig(
            hidden_size=hidden_size,
            key_dim=self.associative_dim,
            features=self.associative_features,
            normaliser=self.associative_normaliser,
        )


def check_backbone(backbone: object) -> None:
    """Validate that a model is one that a memory can go around.

    Raises:
        TypeError: If it is no model of transformers.
        ValueError: If it has no head for the next token, reads what comes after a token, or has an adapter that adds
            columns to a text.
    """
    bare: Any = backbone.get_base_model() if hasattr(backbone, "peft_config") else backbone  # pyright: ignore
    config: Any = getattr(bare, "config", None)
    if config is None or not hasattr(bare, "can_generate"):
        raise TypeError(f"backbone must be a model of transformers, but is a {type(backbone).__name__}.")
    # Of models that can be either, the config decides; in those that are causal anyway, attention says that it is.
    may_see_all = config.is_encoder_decoder or getattr(config, "is_decoder", None) is False
    is_causal = any(getattr(module, "is_causal", False) for module in bare.modules())
    if (may_see_all and not is_causal) or not bare.can_generate():
        raise ValueError(
            "backbone must be a causal language model, in which a token sees those before it alone, but this "
            f"{type(bare).__name__} is not: load one with AutoModelForCausalLM (a BERT with is_decoder=True)."
        )
    if getattr(getattr(backbone, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            "backbone must not have an adapter of peft that puts virtual tokens before a text, for they would stand "
            "before each segment and its memory; take LoRA."
        )


def check_reach(config: Any, columns: int) -> None:
    """Validate that attention reaches over a whole segment, so that write slots see all of it and the memory.

    Raises:
        ValueError: If it ends at a window or a chunk before.
    """
    found = [f"{name}={width}" for name, width in windows_of(config).items() if width < columns]
    if found:
        raise ValueError(
            f"backbone must have attention over a whole segment and its memory, {columns} columns, but this "
            f"{config.get_text_config().model_type} has {', '.join(found)}: its memory would not see all of a segment. "
            "Shorten segment_length, or load the model without a window."
        )


def windows_of(config: Any) -> dict[str, int]:
    """How far attention reaches back, by the names of Hugging Face's configs; empty where it reaches to the begin."""
    config = config.get_text_config()
    windows = {name: getattr(config, name, None) for name in _WINDOWS}
    if not getattr(config, "use_sliding_window", True):
        windows.pop("sliding_window")
    if "local" not in (getattr(config, "attention_layers", None) or ()):
        windows.pop("window_size")
    kinds = [str(kind) for kind in getattr(config, "layer_types", None) or ()]
    if kinds and not any("sliding" in kind or "chunked" in kind for kind in kinds):
        return {}  # the layers say what they are, and none has a window
    return {name: width for name, width in windows.items() if isinstance(width, int)}


_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""Names in Hugging Face's configs of how far attention reaches; ``window_size`` is GPT-Neo's, for its local layers."""
