"""What the values of a GGUF file's metadata must be: the package reads whatever stands there."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from retentive.errors import MismatchError


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(of(one) for one in cast("list[Any]", value))


def _is_count(value: Any) -> bool:
    return _is_whole(value, 1)


_Kind = tuple[Callable[[Any], bool], str]
_TEXT: _Kind = (lambda value: isinstance(value, str), "a text")
_TEXTS: _Kind = (lambda value: _is_list(value, _TEXT[0]), "a list of texts")
_FLAG: _Kind = (lambda value: isinstance(value, bool), "true or false")
_WHOLE: _Kind = (_is_whole, "a whole number of 0 or more")
_COUNT: _Kind = (_is_count, "a whole number above 0")
_COUNTS: _Kind = (lambda value: _is_count(value) or _is_list(value, _is_whole), "a whole number above 0, or a list")
_ABOVE_0: _Kind = (lambda value: _is_number(value) and value > 0, "a finite number above 0")
_NUMBERS: _Kind = (lambda value: _is_list(value, _is_number), "a list of finite numbers")
_WHOLES: _Kind = (lambda value: _is_list(value, _is_whole), "a list of whole numbers")

KINDS: Mapping[str, _Kind] = {
    **dict.fromkeys(("general.architecture", "general.name", "general.license", "tokenizer.chat_template"), _TEXT),
    **dict.fromkeys(("tokenizer.ggml.model", "tokenizer.ggml.pre", "rope.scaling.type"), _TEXT),
    **dict.fromkeys(("tokenizer.ggml.tokens", "tokenizer.ggml.merges"), _TEXTS),
    "tokenizer.ggml.scores": _NUMBERS,
    "tokenizer.ggml.token_type": _WHOLES,
    **{f"tokenizer.ggml.{name}_token_id": _WHOLE for name in ("bos", "eos", "unknown", "padding")},
    **{f"tokenizer.ggml.add_{name}": _FLAG for name in ("bos_token", "eos_token", "space_prefix")},
    **dict.fromkeys(("block_count", "embedding_length", "context_length", "rope.dimension_count"), _COUNT),
    **dict.fromkeys(("attention.key_length", "attention.value_length"), _COUNT),
    **dict.fromkeys(("feed_forward_length", "attention.head_count", "attention.head_count_kv"), _COUNTS),
    **dict.fromkeys(("expert_count", "attention.sliding_window"), _WHOLE),
    **dict.fromkeys(("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"), _ABOVE_0),
    **dict.fromkeys(("rope.freq_base", "rope.scaling.factor", "rope.scale_linear"), _ABOVE_0),
}
"""Key -> what its value must be; keys of an architecture without its name. Others are not looked at."""


def check_kinds(metadata: Mapping[str, Any], path: Path) -> None:
    """Validate the values that this library reads.

    Raises:
        MismatchError: If one is of another kind, or lists that tell of tokens are of other lengths than the tokens.
    """
    architecture = metadata.get("general.architecture")
    for key, value in metadata.items():
        kind = KINDS.get(key) or KINDS.get(key.removeprefix(f"{architecture}."))
        if kind is not None and not kind[0](value):
            shown = repr(value)
            shown = shown if len(shown) < 80 else f"{shown[:60]}... ({type(value).__name__})"
            raise MismatchError(f"{path} must have {kind[1]} as {key}, but has {shown}; copy it again.")
    tokens: list[str] | None = metadata.get("tokenizer.ggml.tokens")
    if tokens is not None:
        _check_tokens(tokens, metadata, path)


def _check_tokens(tokens: list[str], metadata: Mapping[str, Any], path: Path) -> None:
    """Validate the lists that tell of tokens."""
    for name in ("scores", "token_type"):
        told: list[Any] | None = metadata.get(f"tokenizer.ggml.{name}")
        if told is not None and len(told) != len(tokens):
            raise MismatchError(
                f"{path} must have one entry of tokenizer.ggml.{name} for each of {len(tokens):,} tokens, but has "
                f"{len(told):,}; copy it again."
            )
    known = {*tokens}
    merges: list[str] = metadata.get("tokenizer.ggml.merges") or []
    for number, merge in enumerate(merges):
        parts = merge.split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= known:
            raise MismatchError(
                f"{path} must have two tokens that make a third one, with a space between, in each of "
                f"tokenizer.ggml.merges, but number {number:,} is {merge!r}; copy it again."
            )
