"""The bytes of each token of a ``tokenizer.json``: exact, or an error if they are not known."""

import re
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import tokenizers

_SPACE_MARK = "▁"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# These change no text, or only its composition of accents; others, such as lower-casing, lose bytes.
_FAITHFUL_NORMALIZERS = {"NFC", "Prepend", "Replace"}


def bytes_of_tokens(description: dict[str, Any], library: "tokenizers.Tokenizer") -> dict[int, bytes]:
    """The bytes of text that every id stands for; special tokens stand for none, as no text encodes to them.

    They are known for two kinds of vocabulary. Byte-level ones write each byte as a printable character (Radford et
    al. 2019). Those in the style of sentencepiece write a space as U+2581 and rare characters as ``<0x..>`` bytes;
    the space that they put before a text belongs to its first token, and spaces that an added token takes beside it
    to none.

    Args:
        description: The parsed ``tokenizer.json``.
        library: The tokenizer that it describes.

    Raises:
        ValueError: If the vocabulary is of another kind, or the tokenizer changes text before it cuts it.
    """
    _check_normalizer(description.get("normalizer"))
    vocabulary = vocabulary_of(description)
    decoders = parts_of(description.get("decoder"), "decoders")
    if any(part["type"] == "ByteLevel" for part in decoders):
        table = byte_level_table()
        found = {token: byte_level_bytes(piece, table) for token, piece in vocabulary.items()}
    elif any(part["type"] == "ByteFallback" for part in decoders):
        _check_byte_fallback(description["model"], set(vocabulary.values()))
        found = {token: _sentencepiece(piece) for token, piece in vocabulary.items()}
    else:
        kinds = ", ".join(part["type"] for part in decoders) or "none"
        raise _refusal(f"its decoder ({kinds}) is neither byte-level nor with byte fallback")
    for token in added_tokens(description):
        found[token["id"]] = b"" if token["special"] else _text_of(token, library).encode("utf-8")
    return found


def _text_of(added: dict[str, Any], library: "tokenizers.Tokenizer") -> str:
    """The text that an added token is found as; one that is normalised is found in the text that is."""
    normalizer: Any = cast("Any", library).normalizer
    if normalizer is None or not added["normalized"]:
        return added["content"]
    return normalizer.normalize_str(added["content"]).replace(_SPACE_MARK, " ")


def adds_prefix_space(description: dict[str, Any]) -> bool:
    """Whether the tokenizer may put a space before a text that has none."""
    normalizers = parts_of(description.get("normalizer"), "normalizers")
    pre_tokenizers = parts_of(description.get("pre_tokenizer"), "pretokenizers")
    metaspace = (part for part in pre_tokenizers if part["type"] == "Metaspace")
    return (
        any(part["type"] == "Prepend" for part in normalizers)
        or any(part.get("add_prefix_space") for part in pre_tokenizers)
        or any(part.get("prepend_scheme", "always") != "never" for part in metaspace)
    )


def vocabulary_of(description: dict[str, Any]) -> dict[int, str]:
    """The pieces of the model by their ids; one that lists pieces with scores numbers them from 0."""
    vocabulary = cast("dict[str, int] | list[tuple[str, float]]", description["model"].get("vocab") or {})
    if isinstance(vocabulary, dict):
        return {token: piece for piece, token in vocabulary.items()}
    return {token: piece for token, (piece, _) in enumerate(vocabulary)}


def added_tokens(description: dict[str, Any]) -> list[dict[str, Any]]:
    return description.get("added_tokens") or []


def _refusal(reason: str) -> ValueError:
    message = f"the bytes of this tokenizer's tokens are not known: {reason}. Bits per byte need a byte-level "
    return ValueError(message + "tokenizer or one with byte fallback, such as tokenizer='bytes' or 'bpe'.")


def parts_of(part: dict[str, Any] | None, plural: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return [one for inner in part[plural] for one in parts_of(inner, plural)] if part["type"] == "Sequence" else [part]


def _check_normalizer(normalizer: dict[str, Any] | None) -> None:
    for part in parts_of(normalizer, "normalizers"):
        faithful = part["type"] in _FAITHFUL_NORMALIZERS
        if part["type"] == "Replace":
            faithful = part["pattern"] == {"String": " "} and part["content"] == _SPACE_MARK
        if part["type"] == "Prepend":
            faithful = part["prepend"] == _SPACE_MARK
        if not faithful:
            raise _refusal(f"its normalizer {part['type']!r} changes the text first")


def _check_byte_fallback(model: dict[str, Any], vocabulary: set[str]) -> None:
    if not model.get("byte_fallback"):
        raise _refusal("its model does not fall back to bytes")
    if missing := [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]:
        raise _refusal(f"its vocabulary lacks {len(missing)} of the 256 bytes, such as {missing[0]}")


def byte_level_table() -> dict[str, int]:
    """The printable character of each byte: itself where it has one, else the next free one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def byte_level_bytes(piece: str, table: dict[str, int]) -> bytes:
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return piece.encode("utf-8")  # a special token that also stands in the vocabulary


def _sentencepiece(piece: str) -> bytes:
    if found := BYTE_TOKEN.fullmatch(piece):
        return bytes([int(found[1], 16)])
    return piece.replace(_SPACE_MARK, " ").encode("utf-8")
