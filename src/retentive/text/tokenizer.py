"""The tokenizer protocol, and the description files in a tokenizer's folder."""

from collections.abc import Collection, Iterator, Sequence
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
    """Turns text into token ids and back.

    Attributes:
        name: Kind of tokenizer, as in the manifest: ``bytes``, ``nucleotides``, ``bpe`` or ``file``.
        vocab_size: Number of ids, the end-of-text id included.
        end_of_text: The id that closes every document in a token store; no text encodes to it.
    """

    name: str
    vocab_size: int
    end_of_text: int

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


Begins = Int64[np.ndarray, "_"]
"""The byte of the text at which each token begins, in UTF-8; never falling."""


def character_bytes(text: str) -> Begins:
    """The byte at which each character of a text begins in UTF-8, and the number of all bytes."""
    if text.isascii():
        return np.arange(len(text) + 1)
    content = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    return np.append(np.flatnonzero((content & 0xC0) != 0x80), len(content)).astype(np.int64)


@runtime_checkable
class PlacingTokenizer(Protocol):
    """A tokenizer that knows where in a text its tokens begin, though they may not spell it."""

    def encode_with_begins(self, texts: Sequence[str]) -> list[tuple[TokenIds, Begins]]:
        """What `Tokenizer.encode` gives for each text, with the byte at which each token begins."""
        ...


def encode_with_begins(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[TokenIds, Begins]]:
    """Token ids of each text, with the byte of the text at which each token begins.

    Tokenizers without `PlacingTokenizer.encode_with_begins` must have tokens whose bytes are the text's.

    Raises:
        ValueError: If they do not.
    """
    if isinstance(tokenizer, PlacingTokenizer):
        return tokenizer.encode_with_begins(texts)
    lengths = token_byte_lengths(tokenizer)
    found: list[tuple[TokenIds, Begins]] = []
    for text, ids in zip(texts, encode_batch(tokenizer, texts), strict=True):
        ends = np.cumsum(lengths[ids])
        size = len(text.encode("utf-8"))
        if len(ids) and int(ends[-1]) != size:
            message = f"the tokens of {text[:40]!r} have {int(ends[-1]):,} bytes and the text has {size:,}, so where"
            raise ValueError(f"{message} tokens begin is not known: give the tokenizer encode_with_begins.")
        found.append((ids, ends - lengths[ids]))
    return found


@runtime_checkable
class PiecewiseTokenizer(Protocol):
    """A tokenizer that reads a long text in pieces, so that its memory does not grow with the text."""

    def encode_pieces(self, text: str) -> Iterator[tuple[TokenIds, Begins]]:
        """What `PlacingTokenizer.encode_with_begins` gives for a text, in pieces, one after the other."""
        ...


def encode_pieces(tokenizer: Tokenizer, text: str) -> Iterator[tuple[TokenIds, Begins]]:
    """Token ids of a text with the byte at which each token begins, in pieces, one after the other.

    Tokenizers without `PiecewiseTokenizer.encode_pieces` read the whole text at once.

    Raises:
        ValueError: As `encode_with_begins`.
    """
    if isinstance(tokenizer, PiecewiseTokenizer):
        yield from tokenizer.encode_pieces(text)
    else:
        yield from encode_with_begins(tokenizer, [text])


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


def begin_of(tokenizer: Any) -> int:
    """Return the id after which a document is read; end-of-text where a tokenizer has no other."""
    return int(getattr(tokenizer, "begin_of_text", tokenizer.end_of_text))


@runtime_checkable
class PromptTokenizer(Protocol):
    """A tokenizer from elsewhere, which puts tokens of its own around a text, or none."""

    def encode_prompt(self, text: str, *, tags: bool, around: bool) -> list[int]:
        """See `encode_prompt`."""
        ...


def encode_prompt(tokenizer: Tokenizer, text: str, *, tags: bool = False, around: bool = True) -> list[int]:
    """Token ids of a text that a model goes on from.

    Tokenizers of our own begin with end-of-text, as every document does. One from elsewhere puts around a text what its
    ``tokenizer.json`` says, as transformers does, which may be nothing.

    Args:
        tokenizer: Of any kind.
        text: The text.
        tags: Read the strings of special tokens as these tokens where transformers does, for a text that a template
            wrote. Without it they stay text.
        around: Whether anything is put around the text.
    """
    if isinstance(tokenizer, PromptTokenizer):
        return tokenizer.encode_prompt(text, tags=tags, around=around)
    return [*((tokenizer.end_of_text,) if around else ()), *tokenizer.encode(text)]


@runtime_checkable
class WritingTokenizer(Protocol):
    """A tokenizer that changes text before it cuts it, so that a token may write other bytes than it stands for."""

    def written_bytes(self, token: int) -> bytes:
        """What `Tokenizer.decode` writes for one token after others.

        Raises:
            ValueError: If that depends on the tokens beside it.
        """
        ...


def written_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """What decoding writes for one token after others: its bytes, but for a `WritingTokenizer`.

    U+FFFD for an id of `ids_without_text`, of which nobody knows the text.
    """
    if token not in _known_ids(tokenizer):
        return "\ufffd".encode()
    if isinstance(tokenizer, WritingTokenizer):
        return tokenizer.written_bytes(token)
    return tokenizer.token_bytes(token)


def ids_without_text(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, ...]:
    """Return the ids of a model that its tokenizer does not know, in order: a published table may have more rows."""
    known = _known_ids(tokenizer)
    return tuple(token for token in range(vocab_size) if token not in known)


def _known_ids(tokenizer: Tokenizer) -> Collection[int]:
    return getattr(tokenizer, "known_ids", range(tokenizer.vocab_size))


def save_for_transformers(folder: Path, end_of_text: str, pad: str) -> None:
    """Write the file with which ``AutoTokenizer`` gives the ids of ours.

    Args:
        folder: Where the ``tokenizer.json`` is.
        end_of_text: Begins and ends documents.
        pad: Fills up rows. If it were end-of-text, the standard collators would mask every end, and a model would
            never learn to stop.
    """
    # The strings of special tokens in raw text stay text.
    content = {**transformers_settings(end_of_text, end_of_text, pad), "split_special_tokens": True}
    write_json(folder / TRANSFORMERS_FILE, content)


def transformers_settings(begin: str, end: str, pad: str) -> dict[str, Any]:
    """Return a ``tokenizer_config.json`` that names the tokens which begin, end and fill up."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": begin,
        "eos_token": end,
        "pad_token": pad,
        "clean_up_tokenization_spaces": False,
        # Where a batch is padded, its rows end together: the next token of each comes right after its own last one.
        "padding_side": "left",
    }


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
