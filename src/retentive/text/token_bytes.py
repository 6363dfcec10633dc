"""The bytes of each token of a ``tokenizer.json``: exact, or an error if they are not known."""

import re
from typing import Any, cast

_SPACE_MARK = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# These change no text, or only its composition of accents; others, such as lower-casing, lose bytes.
_FAITHFUL_NORMALIZERS = {"NFC", "Prepend", "Replace"}


def bytes_of_tokens(description: dict[str, Any]) -> dict[int, bytes]:
    """The bytes of every id; special tokens stand for none, as no text encodes to them.

    They are known for two kinds of vocabulary. Byte-level ones write each byte as a printable character (Radford et
    al. 2019). Those in the style of sentencepiece write a space as U+2581 and rare characters as ``<0x..>`` bytes;
    the space that they put before a text belongs to its first token.

    Args:
        description: The parsed ``tokenizer.json``.

    Raises:
        ValueError: If the vocabulary is of another kind, or the tokenizer changes text before it cuts it.
    """
    _check_normalizer(description.get("normalizer"))
    model = cast("dict[str, Any]", description["model"])
    added = cast("list[dict[str, Any]]", description.get("added_tokens") or [])
    decoders = _parts(description.get("decoder"), "decoders")
    vocabulary = cast("dict[str, int] | list[Any]", model.get("vocab"))
    if not isinstance(vocabulary, dict):
        raise _refusal(f"its model {model.get('type')!r} lists pieces with scores")
    if any(part["type"] == "ByteLevel" for part in decoders):
        table = byte_level_table()
        found = {token: _byte_level(piece, table) for piece, token in vocabulary.items()}
    elif any(part["type"] == "ByteFallback" for part in decoders):
        _check_byte_fallback(model, vocabulary)
        found = {token: _sentencepiece(piece) for piece, token in vocabulary.items()}
    else:
        kinds = ", ".join(part["type"] for part in decoders) or "none"
        raise _refusal(f"its decoder ({kinds}) is neither byte-level nor with byte fallback")
    for token in added:
        if not token["special"] and (token.get("lstrip") or token.get("rstrip")):
            raise _refusal(f"its added token {token['content']!r} also takes the spaces around it")
        found[token["id"]] = b"" if token["special"] else token["content"].encode("utf-8")
    return found


def adds_prefix_space(description: dict[str, Any]) -> bool:
    """Whether the tokenizer may put a space before a text that has none."""
    normalizers = _parts(description.get("normalizer"), "normalizers")
    pre_tokenizers = _parts(description.get("pre_tokenizer"), "pretokenizers")
    metaspace = (part for part in pre_tokenizers if part["type"] == "Metaspace")
    return (
        any(part["type"] == "Prepend" for part in normalizers)
        or any(part.get("add_prefix_space") for part in pre_tokenizers)
        or any(part.get("prepend_scheme", "always") != "never" for part in metaspace)
    )


def _refusal(reason: str) -> ValueError:
    message = f"the bytes of this tokenizer's tokens are not known: {reason}. Bits per byte need a byte-level "
    return ValueError(message + "tokenizer or one with byte fallback, such as tokenizer='bytes' or 'bpe'.")


def _parts(part: dict[str, Any] | None, plural: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[plural] if part["type"] == "Sequence" else [part]


def _check_normalizer(normalizer: dict[str, Any] | None) -> None:
    for part in _parts(normalizer, "normalizers"):
        faithful = part["type"] in _FAITHFUL_NORMALIZERS
        if part["type"] == "Replace":
            faithful = part["pattern"] == {"String": " "} and part["content"] == _SPACE_MARK
        if part["type"] == "Prepend":
            faithful = part["prepend"] == _SPACE_MARK
        if not faithful:
            raise _refusal(f"its normalizer {part['type']!r} changes the text first")


def _check_byte_fallback(model: dict[str, Any], vocabulary: dict[str, int]) -> None:
    if not model.get("byte_fallback"):
        raise _refusal("its model does not fall back to bytes")
    if missing := [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]:
        raise _refusal(f"its vocabulary lacks {len(missing)} of the 256 bytes, such as {missing[0]}")


def byte_level_table() -> dict[str, int]:
    """The printable character of each byte: itself where it has one, else the next free one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _byte_level(piece: str, table: dict[str, int]) -> bytes:
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return piece.encode("utf-8")  # a special token that also stands in the vocabulary


def _sentencepiece(piece: str) -> bytes:
    if found := _BYTE_TOKEN.fullmatch(piece):
        return bytes([int(found[1], 16)])
    return piece.replace(_SPACE_MARK, " ").encode("utf-8")
