"""What every tokenizer can do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


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
