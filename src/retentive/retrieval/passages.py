"""Passages: rows of token ids in the datastore, with the tokenizer that reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from retentive.errors import DamagedFileError
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import Tokenizer, decode_batch

NO_TOKEN = -1
"""The id where there is no token: after the end of a chunk or document, and for a missing neighbour."""

Rows = Int64[np.ndarray, "rows length"]
"""Token ids, one passage a row, `NO_TOKEN` after its end."""


@dataclass(frozen=True, slots=True)
class Passages:
    """Rows of token ids with their tokenizer: the input of an encoder, for keys and queries alike.

    Attributes:
        tokens: Ids, `NO_TOKEN` after the end of a row.
        tokenizer: The tokenizer of these ids.
    """

    tokens: Rows
    tokenizer: Tokenizer

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.tokens)

    def texts(self) -> list[str]:
        """The text of each passage."""
        rows = [row[row >= 0].tolist() for row in self.tokens]
        return decode_batch(self.tokenizer, rows)


def as_rows(sequences: Sequence[np.ndarray]) -> Rows:
    """Stack sequences of different lengths, padded with `NO_TOKEN`."""
    rows = np.full((len(sequences), max(map(len, sequences), default=0)), NO_TOKEN, dtype=np.int64)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return rows


def read_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer that is saved in a store.

    Raises:
        DamagedFileError: If its files are missing or altered.
        MismatchError: If it is of a kind that this library does not know.
    """
    try:
        return load_tokenizer(folder)
    except (OSError, ValueError, DamagedFileError) as error:
        raise DamagedFileError(
            f"{folder} holds no tokenizer that can be read ({error}): build the store again, or pass tokenizer=."
        ) from error
