"""Documents read in order, window by window, with the state carried: truncated back-propagation through time."""

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64

from retentive.data.batch import IGNORED, Batch, check_batch, check_sizes, rows_of_rank
from retentive.data.manifest import Split
from retentive.data.packing import empty_split
from retentive.data.shuffling import shuffled
from retentive.data.token_store import TokenStore


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of columns of one row that read one document.

    Attributes:
        column: The first column.
        document: Number in its split.
        begin: Position in the document of the token that the first column predicts; the column reads the one before.
        length: Number of columns.
    """

    column: int
    document: int
    begin: int
    length: int


class StreamedWindows:
    """Rows that each read whole documents one after another; each step continues where the last one stopped.

    The trainer carries the state of a row from step to step; ``starts`` tells where a new document begins. All
    documents wait in one queue, in an order drawn anew for each epoch, and the row that is free first takes the next
    one. So every document is read once an epoch in one piece, no row waits for a long document of another, and there
    is no padding while the queue is not empty. Labels are as in `PackedWindows`.

    The batch of a step depends on the step and the arguments alone. To find it after a restart, documents are
    assigned again from the beginning, which takes two or three seconds for each million documents.

    Args:
        store: The token store.
        split: ``train`` or ``heldout``.
        window: Tokens of a row in one step.
        batch_size: Rows of the global batch, over all ranks; a row stays with its rank.
        seed: Decides the order of documents in each epoch.
        epochs: How often to read everything; ``None`` never ends. At the end of the last epoch, rows are filled up
            with begin-of-text tokens that have no label and are starts.

    Raises:
        ValueError: If a size is below 1, or the split has no document.
    """

    def __init__(
        self, store: TokenStore, split: Split, window: int, batch_size: int, seed: int, epochs: int | None = None
    ) -> None:
        check_batch(window, batch_size)
        if epochs is not None:
            check_sizes(epochs=epochs)
        self.window, self.batch_size, self.seed, self.epochs = window, batch_size, seed, epochs
        self._tokens, self._offsets = store.tokens(split), store.document_offsets(split)
        self._begin_of_text = store.manifest.tokenizer.document_begin
        self._lengths = np.diff(self._offsets)
        if len(self._lengths) == 0:
            raise ValueError(empty_split(store, split))
        # For each row: its documents, and where each of them ends in the row's own stream.
        self._documents = [array("q") for _ in range(batch_size)]
        self._ends = [array("q") for _ in range(batch_size)]
        # A heap of rows, by the position from which on they are free.
        self._free = [(0, row) for row in range(batch_size)]
        self._dealt_epochs = 0
        self._deal()

    @property
    def steps_per_epoch(self) -> float:
        """Steps that read as many tokens as the split has; rows enter their next epoch at different steps."""
        return len(self._tokens) / (self.batch_size * self.window)

    @property
    def num_steps(self) -> int:
        """Steps until the last row has read its last document.

        Raises:
            ValueError: If ``epochs`` is None.
        """
        if self.epochs is None:
            raise ValueError("num_steps needs a number of epochs, but epochs is None, which never ends.")
        while self._dealt_epochs < self.epochs:
            self._deal()
        return -(-max(self._free)[0] // self.window)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The next window of every row, or of one rank's share of the rows.

        Args:
            step: From 0, over all epochs. Step ``n`` reads on from step ``n - 1``.
            rank: Number of this process.
            world: Number of processes; it divides ``batch_size``.
        """
        if step < 0 or (self.epochs is not None and step >= self.num_steps):
            last = "" if self.epochs is None else f" and below num_steps={self.num_steps}"
            raise ValueError(f"step must be at least 0{last}, but is {step}.")
        rows = rows_of_rank(self.batch_size, rank, world)
        tokens = np.full((len(rows), self.window), self._begin_of_text, dtype=np.int64)
        labels = np.full_like(tokens, IGNORED)
        starts = np.ones(tokens.shape, dtype=np.bool_)
        for index, stretches in enumerate(self.stretches(step, rank, world)):
            self._fill(stretches, tokens[index], labels[index], starts[index])
        return Batch(tokens=torch.from_numpy(tokens), labels=torch.from_numpy(labels), starts=torch.from_numpy(starts))

    def stretches(self, step: int, rank: int = 0, world: int = 1) -> list[list[Stretch]]:
        """The stretches of documents in each row of a batch."""
        while self._free[0][0] < (step + 1) * self.window and self._dealt_epochs != self.epochs:
            self._deal()
        return [list(self._row(row, step * self.window)) for row in rows_of_rank(self.batch_size, rank, world)]

    def _deal(self) -> None:
        """Assign one more epoch's documents, each to the row that is free first."""
        for document in shuffled(len(self._lengths), self.seed, self._dealt_epochs).tolist():
            position, row = self._free[0]
            end = position + int(self._lengths[document])
            self._documents[row].append(document)
            self._ends[row].append(end)
            heapq.heapreplace(self._free, (end, row))
        self._dealt_epochs += 1

    def _row(self, row: int, begin: int) -> Iterator[Stretch]:
        """The stretches of the window that begins at position ``begin`` of a row's stream."""
        column, ends = 0, self._ends[row]
        for place in range(bisect_right(ends, begin), len(ends)):
            document = self._documents[row][place]
            length = int(self._lengths[document])
            here = length - (ends[place] - begin - column)  # position in the document at which this window continues
            read = min(length - here, self.window - column)
            yield Stretch(column, document, here, read)
            column += read
            if column == self.window:
                return

    def _fill(
        self,
        stretches: list[Stretch],
        tokens: Int64[np.ndarray, "window"],
        labels: Int64[np.ndarray, "window"],
        starts: Bool[np.ndarray, "window"],
    ) -> None:
        """Fill one row of tokens and labels."""
        for stretch in stretches:
            column, read = stretch.column, stretch.length
            here = int(self._offsets[stretch.document]) + stretch.begin
            found = self._tokens[here : here + read]
            labels[column : column + read] = found
            tokens[column] = self._tokens[here - 1] if stretch.begin else self._begin_of_text
            tokens[column + 1 : column + read] = found[:-1]
            starts[column : column + read] = False
            starts[column] = not stretch.begin
