"""Bits per byte of held-out documents: how far a model compresses their text.

This is the loss of all tokens of the documents, in bits, divided by the bytes of their text in UTF-8. Every character
counts by its bytes, however tokens split it, so models with different tokenizers can be compared. End-of-text tokens
count neither as loss nor as bytes; see `retentive.evaluation.measures.scoring`.
"""

import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from retentive.data.neighbours.batches import FindsNeighbours
from retentive.evaluation.measures.documents import Coverage, Documents
from retentive.evaluation.measures.scoring import (
    Hook,
    ScoredTokens,
    added_up,
    quiet,
    score_in_one_pass,
    score_in_windows,
)
from retentive.evaluation.measures.uncertainty import standard_error_of_ratio
from retentive.models.protocol import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsPerByte:
    """How well a model predicts some documents.

    Attributes:
        method: ``windows``: each with an empty memory. ``one_pass``: the state carried through each document.
        bits_per_byte: Lower is better; 8 is what bytes take without a model.
        standard_error: Of ``bits_per_byte``, from the differences between documents; None for a single one.
        nats_per_token: Mean loss of the scored tokens; compares only models with one tokenizer.
        tokens: Tokens scored, each once.
        bytes: Bytes of the documents' text in UTF-8.
        documents: Documents scored.
        coverage: How much of the split was measured.
        window: Tokens of a window; None in one pass.
        stride: Tokens from window to window; None in one pass.
        seconds: Duration of the measurement.
    """

    method: Literal["windows", "one_pass"]
    bits_per_byte: float
    standard_error: float | None
    nats_per_token: float
    tokens: int
    bytes: int
    documents: int
    coverage: Coverage
    window: int | None
    stride: int | None
    seconds: float


class DocumentTally:
    """A running sum of the loss of each document."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        count = len(documents.numbers)
        self._nats, self._tokens = np.zeros(count), np.zeros(count, np.int64)

    def add(self, scored: ScoredTokens) -> None:
        """Add the losses of some tokens."""
        place = np.searchsorted(self._documents.numbers, scored.document)
        np.add.at(self._nats, place, scored.nats)
        np.add.at(self._tokens, place, 1)

    def result(
        self,
        method: Literal["windows", "one_pass"],
        *,
        seconds: float,
        window: int | None = None,
        stride: int | None = None,
    ) -> BitsPerByte:
        """Return the mean over all documents."""
        assert (self._tokens == self._documents.lengths).all(), "every token must be scored, and once"
        sizes = self._documents.sizes
        tokens, text_bytes = int(self._tokens.sum()), int(sizes.sum())
        error = standard_error_of_ratio(self._nats, sizes)
        return BitsPerByte(
            method=method,
            bits_per_byte=float(self._nats.sum()) / text_bytes / math.log(2),
            standard_error=None if error is None else error / math.log(2),
            nats_per_token=float(self._nats.sum()) / tokens,
            tokens=tokens,
            bytes=text_bytes,
            documents=len(sizes),
            coverage=self._documents.coverage,
            window=window,
            stride=stride,
            seconds=seconds,
        )


def bits_per_byte_in_windows(
    model: LanguageModel,
    documents: Documents,
    *,
    window: int = 2048,
    stride: int = 1024,
    neighbours: FindsNeighbours | None = None,
    batch_size: int = 8,
    on_tokens: Hook = quiet,
) -> BitsPerByte:
    """Measure with sliding windows, the way that models without a carried state are compared.

    Args:
        model: The model to measure; it stays in the mode it is in (training or evaluation).
        documents: As `select_documents` gives them.
        window: Tokens read together.
        stride: Tokens from window to window; each scores what the one before it did not reach.
        batch_size: Windows side by side. Changes speed and memory, never results.
        neighbours: Finds the neighbours of every chunk, for models that read them.
        on_tokens: Called with the number of tokens scored since its last call.

    Raises:
        MismatchError: If the model lacks some token ids.
        ValueError: If a number is out of range, or there is nothing to score.
    """
    documents.check_model(model)
    begin = time.perf_counter()
    windows = documents.windows(window=window, stride=stride, batch_size=batch_size)
    tally = added_up(score_in_windows(model, windows, neighbours), DocumentTally(documents), on_tokens)
    return tally.result("windows", seconds=time.perf_counter() - begin, window=window, stride=stride)


def bits_per_byte_in_one_pass(
    model: LanguageModel, documents: Documents, *, chunk_size: int = 1024, batch_size: int = 8, on_tokens: Hook = quiet
) -> BitsPerByte:
    """Measure in one pass: every token is read once, and predicted from its whole document so far.

    Args:
        model: The model to measure; it stays in the mode it is in (training or evaluation).
        documents: As `select_documents` gives them.
        chunk_size: Tokens of each document read in one call. Changes speed and memory, never results.
        batch_size: Documents side by side. Changes speed and memory, never results.
        on_tokens: Called with the number of tokens scored since its last call.

    Raises:
        ValueError: See `bits_per_byte_in_windows`, as for MismatchError.
    """
    documents.check_model(model)
    begin = time.perf_counter()
    scores = score_in_one_pass(model, documents, chunk_size=chunk_size, batch_size=batch_size)
    tally = added_up(scores, DocumentTally(documents), on_tokens)
    return tally.result("one_pass", seconds=time.perf_counter() - begin)
