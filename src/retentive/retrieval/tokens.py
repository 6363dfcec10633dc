"""Token ids in the datastore: the tokenizer that it needs, and the tokenizers that it reads back on its own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Int64

from retentive.errors import DamagedFileError, MismatchError

if TYPE_CHECKING:
    import tokenizers

NO_TOKEN = -1
"""Stands where there is no token: after the end of a chunk or document, and for a neighbour that is missing."""

Rows = Int64[np.ndarray, "rows length"]
"""Token ids, one passage a row, `NO_TOKEN` after its end."""


@runtime_checkable
class TextTokenizer(Protocol):
    """What the datastore asks of a tokenizer. All tokenizers of this library have it."""

    @property
    def name(self) -> str:
        """Kind of tokenizer."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def end_of_text(self) -> int:
        """The id that ends a document; no text encodes to it, so no chunk holds it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. The strings of special tokens in raw text stay text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; an incomplete character at either end becomes U+FFFD."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides ids."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files that make it again."""
        ...


class ByteText:
    """The default tokenizer: UTF-8 bytes as ids 0 to 255, and 256 as end of text."""

    name = "bytes"
    vocab_size = 257
    end_of_text = 256

    def encode(self, text: str) -> list[int]:
        """The bytes of a text."""
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The bytes of each text, without a Python object for every one of them."""
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of bytes; what is no UTF-8 becomes U+FFFD, end of text becomes nothing."""
        return bytes(token for token in ids if token != self.end_of_text).decode("utf-8", errors="replace")

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of many rows, as `decode` gives each, but faster."""
        return [
            self.decode(row) if self.end_of_text in row else bytes(row).decode("utf-8", errors="replace")
            for row in rows
        ]

    def fingerprint(self) -> str:
        """The same as that of the library's byte tokenizer, which gives the same ids."""
        return hashlib.sha256(b"retentive bytes, end of text 256").hexdigest()

    def save(self, folder: Path) -> None:
        """Write the one small file that names this kind."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "retentive_tokenizer.json").write_text('{\n "format_version": 1,\n "kind": "bytes"\n}\n')


class SubwordText:
    """A ``tokenizer.json``: one that a store kept, or that of an encoder.

    Args:
        description: Content of the file.
        end_of_text: The token that ends a document.
        name: Kind of tokenizer, as it was recorded.
    """

    def __init__(self, description: str, *, end_of_text: str, name: str = "file") -> None:
        self.name = name
        self._description = description
        self._end_of_text_string = end_of_text
        found = self._tokenizer.token_to_id(end_of_text)
        if found is None:
            raise ValueError(f"end_of_text must be a token of the vocabulary, but is {end_of_text!r}.")
        self.end_of_text: int = found
        self.vocab_size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by content: the library's own pickle forgets that special tokens in text stay text."""
        return _subword_text, (self._description, self._end_of_text_string, self.name)

    @cached_property
    def _tokenizer(self) -> "tokenizers.Tokenizer":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self._description)
        tokenizer.encode_special_tokens = True
        # Many published files would cut every text to the length of their model, without a word.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of many texts, on all cores."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(one.ids, dtype=np.uint32) for one in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, by the tokenizer's own decoder."""
        return self._tokenizer.decode([token for token in ids if token != self.end_of_text], skip_special_tokens=True)

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of many rows of ids, on all cores."""
        return self._tokenizer.decode_batch(rows, skip_special_tokens=True)

    def fingerprint(self) -> str:
        """SHA-256 of the description, whatever its white space, and of the end-of-text id."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        canonical = json.dumps(json.loads(self._description), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{self.end_of_text} {canonical}".encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the ``tokenizer.json`` and the small file that says how it is used."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._description, encoding="utf-8")
        described = {"format_version": 1, "kind": self.name, "end_of_text": self._end_of_text_string}
        (folder / "retentive_tokenizer.json").write_text(json.dumps(described, indent=1) + "\n")


def _subword_text(description: str, end_of_text: str, name: str) -> SubwordText:
    return SubwordText(description, end_of_text=end_of_text, name=name)


def read_tokenizer(folder: Path) -> TextTokenizer:
    """Read back the tokenizer that a store keeps.

    Raises:
        DamagedFileError: If its files are missing or altered.
        MismatchError: If it is of a kind that only its own library can read.
    """
    try:
        described = cast("dict[str, Any]", json.loads((folder / "retentive_tokenizer.json").read_text("utf-8")))
        kind = described["kind"]
        if kind == "bytes":
            return ByteText()
        if kind in ("bpe", "file"):
            description = (folder / "tokenizer.json").read_text("utf-8")
            return SubwordText(description, end_of_text=described["end_of_text"], name=kind)
    except (OSError, ValueError, KeyError) as error:
        message = f"{folder} holds no tokenizer that can be read ({error}): build the store again, or pass tokenizer=."
        raise DamagedFileError(message) from error
    raise MismatchError(f"{folder} holds a tokenizer of kind {kind!r}: open the store with tokenizer=, the one it had.")


@dataclass(frozen=True, slots=True)
class Passages:
    """Rows of token ids with the tokenizer that reads them: what an encoder gets, for keys and queries alike.

    Attributes:
        tokens: Ids, `NO_TOKEN` after the end of a row.
        tokenizer: Whose ids they are.
    """

    tokens: Rows
    tokenizer: TextTokenizer

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.tokens)

    def texts(self) -> list[str]:
        """The text of each passage."""
        rows = [row[row >= 0].tolist() for row in self.tokens]
        fast = getattr(self.tokenizer, "decode_batch", None)
        return fast(rows) if fast is not None else [self.tokenizer.decode(row) for row in rows]


def encode_batch(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, by the fastest way that the tokenizer offers."""
    fast = getattr(tokenizer, "encode_batch", None)
    return fast(texts) if fast is not None else [np.asarray(tokenizer.encode(text), dtype=np.int64) for text in texts]


def as_rows(sequences: Sequence[np.ndarray]) -> Rows:
    """Put sequences of different lengths under one another, `NO_TOKEN` after their ends."""
    rows = np.full((len(sequences), max(map(len, sequences), default=0)), NO_TOKEN, dtype=np.int64)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return rows
