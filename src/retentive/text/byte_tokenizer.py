"""The byte tokenizer: one id per byte, no vocabulary file."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retentive.files import write_atomically
from retentive.text.pieces import utf8_pieces
from retentive.text.token_bytes import byte_level_table
from retentive.text.tokenizer import PAD, TOKENIZER_FILE, Begins, TokenIds, save_description, save_for_transformers

END_OF_TEXT = "<|endoftext|>"


class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, and 256 as end-of-text."""

    name = "bytes"
    vocab_size = 257
    end_of_text = 256
    # 0xFF stands in no UTF-8.
    pad = 255

    def encode(self, text: str) -> list[int]:
        """The bytes of a text.

        Raises:
            ValueError: If the text has half a surrogate pair, which no UTF-8 can hold.
        """
        return list(utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """The bytes of each text, as arrays."""
        return [np.frombuffer(utf8(text), dtype=np.uint8).astype(np.uint32) for text in texts]

    def encode_with_begins(self, texts: Sequence[str]) -> list[tuple[TokenIds, Begins]]:
        """The bytes of each text, with their numbers."""
        return [(ids, np.arange(len(ids))) for ids in self.encode_batch(texts)]

    def encode_pieces(self, text: str) -> Iterator[tuple[TokenIds, Begins]]:
        """The bytes of a text in pieces, with their numbers."""
        place = 0
        for piece in utf8_pieces(text):
            ids = np.frombuffer(piece, dtype=np.uint8).astype(np.uint32)
            yield ids, np.arange(place, place + len(ids))
            place += len(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode bytes as UTF-8; invalid bytes become U+FFFD, end-of-text becomes nothing.

        Raises:
            ValueError: If an id is not in 0 to 256.
        """
        check_ids(ids, self.vocab_size)
        return bytes(token for token in ids if token != self.end_of_text).decode("utf-8", errors="replace")

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of many rows, as `decode` gives each, but faster."""
        return [
            self.decode(row) if self.end_of_text in row else bytes(row).decode("utf-8", errors="replace")
            for row in rows
        ]

    def token_bytes(self, token: int) -> bytes:
        """The byte itself, or nothing for end-of-text."""
        check_ids([token], self.vocab_size)
        return b"" if token == self.end_of_text else bytes([token])

    def fingerprint(self) -> str:
        """The same for every byte tokenizer."""
        return hashlib.sha256(b"retentive bytes, end of text 256").hexdigest()

    def save(self, folder: Path) -> None:
        """Write the description of this tokenizer, and an equivalent ``tokenizer.json`` for other libraries."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TOKENIZER_FILE, (json.dumps(_as_bpe(), ensure_ascii=False) + "\n").encode())
        save_for_transformers(folder, END_OF_TEXT, PAD)
        save_description(folder, kind="bytes")


def _as_bpe() -> dict[str, Any]:
    """The byte tokenizer as a ``tokenizer.json``: a byte-level BPE without merges."""
    ending = {"id": ByteTokenizer.end_of_text, "content": END_OF_TEXT, "special": True}
    padding = {"id": ByteTokenizer.pad, "content": PAD, "special": True}
    vocab = {PAD if byte == ByteTokenizer.pad else piece: byte for piece, byte in byte_level_table().items()}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [padding | flags, ending | flags],
        "pre_tokenizer": level,
        "post_processor": _begin_with(END_OF_TEXT, ByteTokenizer.end_of_text),
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def _begin_with(token: str, number: int) -> dict[str, Any]:
    """Documents begin with end-of-text, as in training, unless ``add_special_tokens`` is False."""
    begin = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def utf8(text: str) -> bytes:
    """Encode a text as UTF-8; half a surrogate pair (from a JSON escape or a file name) is a ``ValueError``."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at character {error.start}"
        message = f"text must be encodable as UTF-8, but has half a surrogate pair ({found}): remove or replace it."
        raise ValueError(message) from error


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Validate that ids are in the vocabulary."""
    if len(ids) > 0 and not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise ValueError(f"token ids must be from 0 to {vocab_size - 1}, but one is {wrong}.")
