"""The documents that a model is measured on."""

import random
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from retentive.config_types import check_count
from retentive.data.evaluation_windows import EvaluationWindows
from retentive.data.manifest import Split
from retentive.data.token_store import StoredTokens, TokenStore
from retentive.errors import MismatchError
from retentive.models.calls import check_predicts_next
from retentive.models.protocol import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a split was measured.

    Attributes:
        split: ``heldout`` or ``train``.
        documents: Documents measured.
        documents_in_split: Documents that there are.
        text_bytes: Bytes of the measured documents' text in UTF-8.
        text_bytes_in_split: Bytes that there are.
    """

    split: Split
    documents: int
    documents_in_split: int
    text_bytes: int
    text_bytes_in_split: int

    @property
    def is_whole(self) -> bool:
        """Whether the whole split was measured."""
        return self.documents == self.documents_in_split

    def __str__(self) -> str:
        """Describe the coverage, so that a reader sees every limit."""
        if self.is_whole:
            return f"all {self.documents:,} documents of {self.split!r} ({self.text_bytes:,} bytes)"
        return (
            f"a sample of {self.documents:,} of {self.documents_in_split:,} documents of {self.split!r} "
            f"({self.text_bytes:,} of {self.text_bytes_in_split:,} bytes)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Some documents of a token store.

    Attributes:
        store: The token store that holds them.
        split: The split that holds them.
        numbers: Their numbers in the split, in increasing order.
        coverage: How much of the split they are.
    """

    store: TokenStore
    split: Split
    numbers: Int64[np.ndarray, "documents"]
    coverage: Coverage

    def text(self, number: int) -> StoredTokens:
        """Tokens of one document without its end-of-text, as a view of the store's memory map."""
        begin, end = self.store.document_offsets(self.split)[number : number + 2]
        return self.store.tokens(self.split)[begin : end - 1]

    @property
    def lengths(self) -> Int64[np.ndarray, "documents"]:
        """Tokens of each document, without end-of-text."""
        offsets = self.store.document_offsets(self.split)
        return offsets[self.numbers + 1] - offsets[self.numbers] - 1

    @property
    def sizes(self) -> Int64[np.ndarray, "documents"]:
        """Bytes of each document's text in UTF-8."""
        return np.asarray(self.store.document_bytes(self.split)[self.numbers])

    def windows(self, *, window: int, stride: int, batch_size: int) -> EvaluationWindows:
        """Windows over these documents that score each of their tokens once; see `EvaluationWindows`.

        Raises:
            ValueError: If a number is out of range, or there is nothing to score.
        """
        return EvaluationWindows(
            self.store, self.split, window=window, stride=stride, batch_size=batch_size, documents=self.numbers.tolist()
        )

    @property
    def num_scored(self) -> int:
        """Tokens that are scored: all of each document, end-of-text apart."""
        return int(self.lengths.sum())

    def check_model(self, model: LanguageModel) -> None:
        """Check that a model can predict these documents' tokens.

        Raises:
            MismatchError: If its vocabulary is smaller than the tokenizer's.
            ValueError: If it is an encoder.
        """
        check_predicts_next(model)
        ours, theirs = model.vocab_size, self.store.manifest.tokenizer.vocab_size
        if ours < theirs:
            raise MismatchError(
                f"the model has {ours:,} token ids, but the tokenizer of {self.store.folder} has {theirs:,}: evaluate "
                "on a store that was prepared with the model's own tokenizer."
            )


def select_documents(
    store: TokenStore,
    *,
    split: Split = "heldout",
    max_documents: int | None = None,
    max_bytes: int | None = None,
    max_document_bytes: int | None = None,
) -> Documents:
    """The documents of a split, or a sample of them that is always the same.

    A sample is drawn at random over the whole split, as neighbours in a store are often alike. Documents stay whole:
    one that would go beyond ``max_bytes`` is passed over, so a small limit prefers short documents.

    Args:
        store: The token store that holds them.
        split: ``heldout``, or ``train`` to see how well the model fits its training text.
        max_documents: Documents at most; None takes all.
        max_bytes: Bytes of text at most; None takes all.
        max_document_bytes: Documents above this size in bytes are left out; None leaves out none. A Transformer's work
            in one pass grows as the square of a document.

    Raises:
        ValueError: If a limit is below 1, the split holds nothing, or no document fits.
    """
    limits = {"max_documents": max_documents, "max_bytes": max_bytes, "max_document_bytes": max_document_bytes}
    for name, limit in limits.items():
        if limit is not None:
            check_count(name, limit, otherwise="None for all")
    held = store.manifest.splits[split]
    if held.documents == 0:
        raise ValueError(
            f"split {split!r} of {store.folder} has no document: prepare the text with a larger heldout_fraction, or "
            "evaluate another split."
        )
    sizes = store.document_bytes(split)
    room = held.text_bytes if max_bytes is None else max_bytes
    largest = room if max_document_bytes is None else min(room, max_document_bytes)
    numbers = [number for number in range(held.documents) if sizes[number] <= largest]
    if not numbers:
        name = "max_bytes" if largest == max_bytes else "max_document_bytes"
        raise ValueError(
            f"{name} must be at least the size of the smallest document, {int(sizes.min()):,} bytes, but is "
            f"{largest:,}."
        )
    if max_documents is not None or max_bytes is not None:
        random.Random(0).shuffle(numbers)
    numbers = sorted(_fitting(numbers, sizes, room)[:max_documents])
    coverage = Coverage(
        split=split,
        documents=len(numbers),
        documents_in_split=held.documents,
        text_bytes=int(sizes[numbers].sum()),
        text_bytes_in_split=held.text_bytes,
    )
    return Documents(store=store, split=split, numbers=np.asarray(numbers, dtype=np.int64), coverage=coverage)


def _fitting(numbers: list[int], sizes: Int64[np.ndarray, "documents"], room: int) -> list[int]:
    """Take documents in the given order, as long as they fit into what is left of the limit."""
    chosen: list[int] = []
    for number in numbers:
        if (size := int(sizes[number])) <= room:
            chosen.append(number)
            room -= size
    return chosen
