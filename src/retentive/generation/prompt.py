"""What a generation begins with: token ids of one row or several, made into one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import cast

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from retentive.shapes import TokenMask, Tokens

Row = Int[Tensor, "_"]
Prompt = Shaped[Tensor, "..."] | Sequence[int] | Sequence[Sequence[int] | Shaped[Tensor, "..."]]
"""Ids of one row (a sequence or a 1-D tensor) or of several (a 2-D tensor, or sequences of any lengths)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBatch:
    """Rows side by side, their ends aligned.

    Attributes:
        tokens: Ids, with padding at the left of shorter rows.
        mask: False at padding; None where all rows are equally long.
    """

    tokens: Tokens
    mask: TokenMask | None

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return self.tokens.shape[1]


def read_prompt(prompt: object, vocab_size: int) -> list[Row]:
    """Turn a `Prompt` into rows of int64 ids on the CPU; None and ``[]`` have no rows.

    Raises:
        TypeError: If it is not token ids.
        ValueError: If it has too many dimensions, or an id is outside of the vocabulary.
    """
    if prompt is None:
        return []
    if isinstance(prompt, str | bytes):
        raise TypeError(f"prompt must be token ids, but is a {type(prompt).__name__}; give tokenizer.encode(text).")
    if isinstance(prompt, Tensor):
        if prompt.ndim not in (1, 2):
            raise ValueError(f"prompt must be (time) or (batch, time), but has shape {tuple(prompt.shape)}.")
        rows: Sequence[object] = [prompt] if prompt.ndim == 1 else list(prompt)
    elif isinstance(prompt, Sequence):
        given = cast("Sequence[object]", prompt)
        rows = [given] if given and isinstance(given[0], Integral) else given
    else:
        raise TypeError(f"prompt must be token ids, but is a {type(prompt).__name__}.")
    return [_row(index, row, vocab_size) for index, row in enumerate(rows)]


def align(rows: list[Row], device: torch.device) -> PromptBatch:
    """Put rows into one batch, padding before the shorter ones, so that every row ends in the last column."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, longest - len(row) :] = row
    mask = torch.arange(longest) >= longest - lengths[:, None]
    return PromptBatch(tokens=tokens.to(device), mask=None if bool(mask.all()) else mask.to(device))


def _row(index: int, row: object, vocab_size: int) -> Row:
    if isinstance(row, str | bytes) or not isinstance(row, Sequence | Tensor):
        raise TypeError(
            f"prompt must be token ids, but row {index} is a {type(row).__name__}; give tokenizer.encode(text)."
        )
    ids = torch.as_tensor(row)
    if ids.numel() == 0:
        return torch.zeros(0, dtype=torch.long)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool:
        raise TypeError(f"prompt must be integer token ids, but row {index} is {ids.dtype}.")
    if ids.ndim != 1:
        raise ValueError(f"each row of prompt must have one dimension, but row {index} has shape {tuple(ids.shape)}.")
    ids = ids.to("cpu", torch.long)
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if len(outside):
        raise ValueError(
            f"every token id must be from 0 to vocab_size - 1 = {vocab_size - 1}, but {len(outside)} of row {index} "
            f"are outside, the first of them {int(outside[0])}; is the prompt of another tokenizer?"
        )
    return ids
