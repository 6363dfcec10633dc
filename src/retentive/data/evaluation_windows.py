"""Overlapping windows that score each token of a document once, with long context, and count its bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from retentive.data.batch import IGNORED, check_sizes
from retentive.data.manifest import Split
from retentive.data.packing import empty_split
from retentive.data.token_store import TokenStore
from retentive.shapes import TokenMask, Tokens
from retentive.text.tokenizer import token_byte_lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationBatch:
    """Some windows, one in each row.

    Attributes:
        tokens: What the model reads; each row begins with an empty state.
        labels: The token that each position should predict, and ``-100`` where it is scored elsewhere or padding.
        mask: False at padding, which is at the end of shorter rows.
        scored_bytes: Bytes of the token in ``labels``, 0 where there is none. Bits per byte are the sum of the
            losses in bits over all batches, divided by the sum of these bytes.
        document: Number of each row's document in its split.
        offset: Position in its document of the token that each row's first column predicts.
    """

    tokens: Tokens
    labels: Tokens
    mask: TokenMask
    scored_bytes: Tokens
    document: Int[Tensor, "batch"]
    offset: Int[Tensor, "batch"]


class EvaluationWindows:
    """All windows of some documents, in batches of similar length.

    Windows of a document begin every ``stride`` tokens. The first scores all its tokens, each further one the last
    ``stride``, so every token is scored exactly once, with at least ``window - stride`` tokens before it where the
    document has them. As in training, a document is read after the tokenizer's begin-of-text, from which alone its
    first token is predicted. End-of-text has no bytes; predicting it is scored on request only.

    Args:
        store: Where the tokens are.
        split: ``train`` or ``heldout``.
        window: Tokens of a window.
        stride: Tokens from one window to the next; at most ``window``.
        batch_size: Windows of a batch.
        documents: Numbers of the documents in the split; ``None`` takes all.
        score_end_of_text: Whether the end of each document is scored too.

    Raises:
        ValueError: If a size is impossible, there is nothing to score, or the tokenizer's bytes are not known.
    """

    def __init__(
        self,
        store: TokenStore,
        split: Split = "heldout",
        *,
        window: int = 2048,
        stride: int = 1024,
        batch_size: int = 8,
        documents: Sequence[int] | None = None,
        score_end_of_text: bool = False,
    ) -> None:
        check_sizes(window=window, stride=stride, batch_size=batch_size)
        if stride > window:
            raise ValueError(
                f"stride must be at most the window of {window} tokens, but is {stride}: some would be left out."
            )
        self.window, self.stride, self.batch_size = window, stride, batch_size
        self._tokens, self._offsets = store.tokens(split), store.document_offsets(split)
        self._begin_of_text = store.manifest.tokenizer.document_begin
        self._document_bytes = store.document_bytes(split)
        self._byte_lengths = torch.from_numpy(token_byte_lengths(store.tokenizer))
        lengths = np.diff(self._offsets)
        if len(lengths) == 0:
            raise ValueError(empty_split(store, split))
        chosen = np.arange(len(lengths)) if documents is None else _checked(documents, len(lengths))
        # How many tokens of each document are predicted: end-of-text only on request.
        predicted = lengths[chosen] - (0 if score_end_of_text else 1)
        chosen, predicted = chosen[predicted > 0], predicted[predicted > 0]
        if len(chosen) == 0:
            raise ValueError(f"no document of {split!r} has a token, so there is nothing to score: give more text.")
        self.num_scored = int(predicted.sum())
        self._document, self._begin, self._length = _windows(chosen, predicted, window, stride)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self._document) // self.batch_size)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        """All batches."""
        return map(self.batch, range(len(self)))

    def batch(self, index: int) -> EvaluationBatch:
        """Return a batch by its number; the order is fixed, so that ranks can share the numbers."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch must be from 0 to {len(self) - 1}, but is {index}.")
        rows = range(index * self.batch_size, min((index + 1) * self.batch_size, len(self._document)))
        width = int(self._length[rows.start])  # the longest, as windows are sorted
        tokens = np.full((len(rows), width), self._begin_of_text, dtype=np.int64)
        labels = np.full_like(tokens, IGNORED)
        mask = np.zeros(tokens.shape, dtype=np.bool_)
        for number, row in enumerate(rows):
            begin, length = int(self._begin[row]), int(self._length[row])
            first = int(self._offsets[self._document[row]]) + begin
            scored_from = 0 if begin == 0 else self.window - self.stride
            found = self._tokens[first : first + length]
            if begin > 0:
                tokens[number, 0] = self._tokens[first - 1]
            tokens[number, 1:length] = found[:-1]
            labels[number, scored_from:length] = found[scored_from:]
            mask[number, :length] = True
        shifted = torch.from_numpy(labels)
        scored_bytes = bytes_of_labels(shifted, self._byte_lengths)
        for number, row in enumerate(rows):
            if self._begin[row] == 0:
                scored_bytes[number, 0] -= self._added_bytes(int(self._document[row]))
        return EvaluationBatch(
            tokens=torch.from_numpy(tokens),
            labels=shifted,
            mask=torch.from_numpy(mask),
            scored_bytes=scored_bytes,
            document=torch.from_numpy(self._document[rows.start : rows.stop]),
            offset=torch.from_numpy(self._begin[rows.start : rows.stop]),
        )

    def _added_bytes(self, document: int) -> int:
        """1 if the tokenizer put a space before the text, which would make its first token look longer than it is."""
        begin, end = self._offsets[document : document + 2].tolist()
        tokens = torch.from_numpy(self._tokens[begin:end].astype(np.int64))
        added = int(self._byte_lengths[tokens].sum()) - int(self._document_bytes[document])
        return 1 if added == 1 else 0


def bytes_of_labels(labels: Tokens, byte_lengths: Int[Tensor, "vocab"]) -> Tokens:
    """Return the bytes of each label's token, 0 where there is no label; for lengths see `token_byte_lengths`."""
    has_label = labels != IGNORED
    return torch.where(has_label, byte_lengths[labels.where(has_label, 0)], 0)


def _checked(documents: Sequence[int], count: int) -> Int64[np.ndarray, "documents"]:
    chosen = np.asarray(documents, dtype=np.int64)
    if len(set(documents)) != len(documents) or (len(chosen) and not 0 <= chosen.min() <= chosen.max() < count):
        raise ValueError(f"documents must be different numbers from 0 to {count - 1}, but are {list(documents)[:8]}.")
    return chosen


def _windows(
    documents: Int64[np.ndarray, "documents"], predicted: Int64[np.ndarray, "documents"], window: int, stride: int
) -> tuple[Int64[np.ndarray, "windows"], Int64[np.ndarray, "windows"], Int64[np.ndarray, "windows"]]:
    """Return document, first position and length of every window, longest first."""
    counts = 1 + np.maximum(0, -(-(predicted - window) // stride))
    document = np.repeat(documents, counts)
    # The number of each window in its document: a count over all, less what came before the document.
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = number * stride
    length = np.minimum(window, np.repeat(predicted, counts) - begin)
    order = np.argsort(-length, kind="stable")
    return document[order], begin[order], length[order]
