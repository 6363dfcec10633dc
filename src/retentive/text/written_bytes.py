"""The bytes that decoding writes for each token of a ``tokenizer.json``, for text that is made token by token.

They may be others than those of `retentive.text.token_bytes`: what a tokenizer does to a text before it cuts it, and
which spaces a token takes beside it, changes nothing where tokens become text.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from retentive.text.token_bytes import (
    BYTE_TOKEN,
    added_tokens,
    byte_level_bytes,
    byte_level_table,
    parts_of,
)

if TYPE_CHECKING:
    import tokenizers

_Writer = Callable[[str], str | bytes]
_BEFORE = "x"
"""A token that stands before the one that is decoded, as decoders treat the first one of a text in their own way."""


def written_bytes(description: dict[str, Any], library: "tokenizers.Tokenizer") -> dict[int, bytes]:
    """What decoding writes for every id after other tokens; nothing for special tokens, which it leaves out.

    Args:
        description: The parsed ``tokenizer.json``.
        library: The tokenizer that it describes.

    Raises:
        ValueError: If what a token writes depends on the tokens beside it.
    """
    writers = _writers(parts_of(description.get("decoder"), "decoders"))
    special = {token["id"] for token in added_tokens(description) if token["special"]}
    found: dict[int, bytes] = {}
    for token in set(library.get_vocab(with_added_tokens=True).values()):
        piece = library.id_to_token(token)  # of an added token, some releases give what its normaliser makes of it
        found[token] = b"" if piece is None or token in special else _written(piece, writers)
    return found


def _written(piece: str, writers: list[_Writer]) -> bytes:
    value: str | bytes = piece
    for write in writers:
        if isinstance(value, str):
            value = write(value)
    return value if isinstance(value, bytes) else value.encode("utf-8")


def _writers(decoders: list[dict[str, Any]]) -> list[_Writer]:
    """One function for each decoder that does something to a token which is not the first."""
    found: list[_Writer] = [] if decoders else [lambda piece: f" {piece}"]
    is_fused = False
    for part in decoders:
        takes_first_spaces = part["type"] == "Strip" and not part["stop"]
        if part["type"] == "Fuse" or (is_fused and takes_first_spaces):
            is_fused = True
        elif is_fused:
            raise _refusal(f"its decoder {part['type']!r} reads the whole text at once")
        elif part["type"] == "ByteLevel":
            found.append(partial(byte_level_bytes, table=byte_level_table()))
        elif part["type"] == "ByteFallback":
            found.append(_fallen_back)
        elif takes_first_spaces or part["type"] in ("Replace", "Metaspace", "WordPiece"):
            found.append(_by_library(part))
        else:
            raise _refusal(f"what its decoder {part['type']!r} writes for a token depends on the next one")
    return found


def _fallen_back(piece: str) -> str | bytes:
    found = BYTE_TOKEN.fullmatch(piece)
    return bytes([int(found[1], 16)]) if found else piece


def _by_library(decoder: dict[str, Any]) -> _Writer:
    from tokenizers import Tokenizer

    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    library: Any = Tokenizer.from_str(json.dumps({"model": model, "decoder": decoder})).decoder
    before = len(library.decode([_BEFORE]))
    return lambda piece: library.decode([_BEFORE, piece])[before:]


def _refusal(reason: str) -> ValueError:
    return ValueError(
        f"this tokenizer's tokens cannot become text one by one: {reason}. Its decode gives the text of all of them."
    )
