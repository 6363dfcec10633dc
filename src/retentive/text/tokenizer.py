"""The tokenizer protocol, and the description files in a tokenizer's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt32

from retentive.errors import DamagedFileError
from retentive.files import parse_json, write_json

TOKENIZER_FILE = "tokenizer.json"
TRANSFORMERS_FILE = "tokenizer_config.json"
DESCRIPTION_FILE = "retentive_tokenizer.json"
FORMAT_VERSION = 1
COPY_AGAIN = "copy it again from its origin"

PAD = "<|pad|>"
"""What fills up rows of a batch for other libraries: no text holds it, and nothing here reads it."""

TokenIds = UInt32[np.ndarray, "_"]
"""Token ids of one text."""


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into token ids and back."""

    @property
    def name(self) -> str:
        """Kind of tokenizer, as in the manifest: ``bytes``, ``bpe`` or ``file``."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids, the end-of-text id included."""
        ...

    @property
    def end_of_text(self) -> int:
        """The id that closes every document in a token store; no text encodes to it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. The strings of special tokens in raw text stay text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; an incomplete character at either end becomes U+FFFD, end-of-text becomes nothing."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Bytes that one token stands for, empty for end-of-text; needed for bits per byte."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides ids, to compare a model, a token store and a datastore."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files that ``load_tokenizer(folder)`` reads."""
        ...


@runtime_checkable
class BatchTokenizer(Protocol):
    """A tokenizer that encodes many texts faster together than one by one."""

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """What `Tokenizer.encode` gives for each text, as arrays."""
        ...


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenIds]:
    """Token ids of each text, by `BatchTokenizer.encode_batch` if the tokenizer has it."""
    if isinstance(tokenizer, BatchTokenizer):
        return tokenizer.encode_batch(texts)
    return [np.asarray(tokenizer.encode(text), dtype=np.uint32) for text in texts]


@runtime_checkable
class BatchDecoder(Protocol):
    """A tokenizer that decodes many rows faster together than one by one."""

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """What `Tokenizer.decode` gives for each row."""
        ...


def decode_batch(tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> list[str]:
    """Text of each row of token ids, by `BatchDecoder.decode_batch` if the tokenizer has it."""
    if isinstance(tokenizer, BatchDecoder):
        return tokenizer.decode_batch(rows)
    return [tokenizer.decode(row) for row in rows]


def token_byte_lengths(tokenizer: Tokenizer) -> Int64[np.ndarray, "vocab"]:
    """Number of bytes of every token id, 0 for end-of-text; for bits per byte.

    Raises:
        ValueError: If the tokenizer cannot tell the bytes of its tokens.
    """
    lengths = (len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
    return np.fromiter(lengths, dtype=np.int64, count=tokenizer.vocab_size)


def save_description(folder: Path, **content: str) -> None:
    """Write the description that `load_tokenizer` reads first."""
    described = {"format_version": FORMAT_VERSION, **content}
    write_json(folder / DESCRIPTION_FILE, described)


def pad_of(tokenizer: object, end_of_text: int) -> int:
    """Return the id that fills up rows of a batch for other libraries; end-of-text where a tokenizer has no other."""
    return int(getattr(tokenizer, "pad", end_of_text))


def save_for_transformers(folder: Path, end_of_text: str, pad: str) -> None:
    """Write the file with which ``AutoTokenizer`` gives the ids of ours.

    Args:
        folder: Where the ``tokenizer.json`` is.
        end_of_text: Begins and ends documents.
        pad: Fills up rows. If it were end-of-text, the standard collators would mask every end, and a model would
            never learn to stop.
    """
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict.fromkeys(("bos_token", "eos_token"), end_of_text),
        "pad_token": pad,
        # The strings of special tokens in raw text stay text.
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        # Where a batch is padded, its rows end together: the next token of each comes right after its own last one.
        "padding_side": "left",
    }
    write_json(folder / TRANSFORMERS_FILE, content)


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a tokenizer's folder.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is not UTF-8, not JSON or no object.
    """
    return parse_json(_read(path), path, cure=COPY_AGAIN)


def read_text(path: Path) -> str:
    """Read a UTF-8 file of a tokenizer's folder.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is not UTF-8.
    """
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is not UTF-8 ({error.reason}): {COPY_AGAIN}.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no tokenizer file {str(path)!r}.") from error
