"""Training windows joined with the neighbours of their chunks.

Chunks are those of the datastore: they begin with the document, after the end-of-text that it is read from. So a model
that learns from these batches has ``chunk_offset=1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from retentive.config_types import check_types
from retentive.data.batch import IGNORED, Batch, check_batch, check_sizes, rows_of_rank
from retentive.data.manifest import Split
from retentive.data.neighbours.stores import ChunkNeighbours
from retentive.data.packing import empty_split
from retentive.data.shuffling import shuffled
from retentive.data.streams import StreamedWindows, Stretch
from retentive.data.token_store import TokenStore


@runtime_checkable
class PlacedWindows(Protocol):
    """Windows that tell which part of which document each of their columns predicts."""

    batch_size: int

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step."""
        ...

    def stretches(self, step: int, rank: int = 0, world: int = 1) -> list[list[Stretch]]:
        """Return the stretches of documents that each row reads, from left to right."""
        ...


class ChunkedWindows:
    """Batches of windows that begin where a chunk does, in an order drawn anew for each epoch.

    Documents are laid into rows one after another. One that does not fit into the rest of a row is cut at the end of a
    chunk and goes on in the next row, so every chunk is whole in one row; the columns left over are end-of-text tokens
    without labels. For all else see `PackedWindows`.

    Args:
        store: Where the tokens are.
        split: ``train`` or ``heldout``.
        window: Tokens of a row, at least ``chunk_size``; best a multiple of it.
        batch_size: Rows of the global batch, over all ranks.
        seed: Decides the order of windows in each epoch.
        chunk_size: Tokens of a chunk.

    Raises:
        ValueError: If a size is impossible, or the split has no token.
    """

    def __init__(
        self, store: TokenStore, split: Split, window: int, batch_size: int, seed: int, *, chunk_size: int
    ) -> None:
        check_batch(window, batch_size)
        check_sizes(chunk_size=chunk_size)
        if window < chunk_size:
            raise ValueError(f"window must be at least chunk_size = {chunk_size} tokens, but is {window}.")
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self._tokens, self._offsets = store.tokens(split), store.document_offsets(split)
        self._begin_of_text = store.manifest.tokenizer.document_begin
        if len(self._tokens) == 0:
            raise ValueError(empty_split(store, split))
        self._pieces, self._first_pieces = _laid(np.diff(self._offsets), window, chunk_size)
        self.windows_per_epoch = len(self._first_pieces) - 1
        self._order = shuffled(self.windows_per_epoch, seed, 0)
        self._order_epoch = 0

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of one step, or one rank's share of it; see `PackedWindows.batch`."""
        rows = self.stretches(step, rank, world)
        tokens = np.full((len(rows), self.window), self._begin_of_text, dtype=np.int64)
        labels = np.full_like(tokens, IGNORED)
        starts = np.ones(tokens.shape, dtype=np.bool_)
        for row, stretches in enumerate(rows):
            for stretch in stretches:
                first = int(self._offsets[stretch.document]) + stretch.begin
                columns = slice(stretch.column, stretch.column + stretch.length)
                found = self._tokens[first : first + stretch.length]
                labels[row, columns] = found
                tokens[row, columns][1:] = found[:-1]
                starts[row, columns] = False
                if stretch.begin:
                    tokens[row, stretch.column] = self._tokens[first - 1]
                else:
                    starts[row, stretch.column] = True
        return Batch(tokens=torch.from_numpy(tokens), labels=torch.from_numpy(labels), starts=torch.from_numpy(starts))

    def stretches(self, step: int, rank: int = 0, world: int = 1) -> list[list[Stretch]]:
        """Return the stretches of documents that each row of a batch reads."""
        if step < 0:
            raise ValueError(f"step must be at least 0, but is {step}.")
        rows = rows_of_rank(self.batch_size, rank, world)
        windows = [self._ordered(*divmod(step * self.batch_size + row, self.windows_per_epoch)) for row in rows]
        return [
            [Stretch(*piece) for piece in self._pieces[slice(*self._first_pieces[window : window + 2])].tolist()]
            for window in windows
        ]

    def _ordered(self, epoch: int, place: int) -> int:
        if epoch != self._order_epoch:
            self._order, self._order_epoch = shuffled(self.windows_per_epoch, self.seed, epoch), epoch
        return int(self._order[place])


def _laid(
    lengths: Int64[np.ndarray, "documents"], window: int, chunk_size: int
) -> tuple[Int64[np.ndarray, "pieces 4"], Int64[np.ndarray, "windows_and_1"]]:
    """Lay documents into rows: return column, document, begin and length of each piece, and each row's first piece."""
    pieces: list[tuple[int, int, int, int]] = []
    rows = [0]
    column = 0
    for document, length in enumerate(lengths.tolist()):
        begin = 0
        while begin < length:
            room = window - column
            taken = length - begin if length - begin <= room else room // chunk_size * chunk_size
            if taken:
                pieces.append((column, document, begin, taken))
                begin += taken
                column += taken
            if begin < length or column == window:
                rows.append(len(pieces))
                column = 0
    if rows[-1] < len(pieces):
        rows.append(len(pieces))
    return np.array(pieces, dtype=np.int64).reshape(-1, 4), np.array(rows, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnText:
    """How many samples find their own text in one of the neighbours of each chunk, over the steps of training.

    Attributes:
        released: Step from which on their share falls; None while all of them do.
        fall: Steps in which it falls to 0.
    """

    released: int | None = None
    fall: int = 1

    def share(self, step: int) -> float:
        """The share at a step, 0 to 1."""
        if self.released is None or step < self.released:
            return 1.0
        return max(0.0, 1 - (step - self.released) / self.fall)


@dataclass(frozen=True)
class RetrievalBatches:
    """Windows joined with neighbours.

    Attributes:
        windows: `ChunkedWindows` or `StreamedWindows`.
        neighbours: Neighbours of the chunks of the same split.
        share_without: Share of samples (rows of a window) that are given no neighbours, 0 to 1, so that the model keeps
            working without them.
        own_text: How many samples find their own text, shifted by at most half a chunk, in one of the neighbours of
            each chunk: this teaches copying, which a small corpus hardly does. None gives none.
        others: Each chunk is given the neighbours of another chunk of the batch, as a control.
        seed: Decides which samples these are, and the shifts.

    Raises:
        ValueError: If ``share_without`` is not from 0 to 1.
    """

    windows: PlacedWindows
    neighbours: ChunkNeighbours
    share_without: float = 0.0
    own_text: OwnText | None = None
    others: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.share_without <= 1:
            raise ValueError(f"share_without must be from 0 to 1, but is {self.share_without}.")

    @property
    def batch_size(self) -> int:
        """Rows of the global batch."""
        return self.windows.batch_size

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of one step, or one rank's share of it, with neighbours of every chunk that ends in it."""
        batch = self.windows.batch(step, rank, world)
        rows = self.windows.stretches(step, rank, world)
        numbers = [step * self.batch_size + row for row in rows_of_rank(self.batch_size, rank, world)]
        carries_state = isinstance(self.windows, StreamedWindows)
        documents, chunks = ended_chunks(rows, self.neighbours.chunk_size, carries_state=carries_state)
        random = [np.random.default_rng((self.seed, number, 0x4E4E)) for number in numbers]
        documents[[drawn.random() < self.share_without for drawn in random]] = -1
        if self.others:
            documents, chunks = _of_others(documents, chunks)
        found = self.neighbours.tokens(documents, chunks)
        if self.own_text is not None:
            share = self.own_text.share(step)
            for row, drawn in enumerate(random):
                if drawn.random() < share:
                    self._add_own_text(found[row], documents[row], chunks[row], drawn)
        return replace(batch, extra_inputs={**batch.extra_inputs, "neighbours": torch.from_numpy(found)})

    def _add_own_text(
        self,
        found: Int64[np.ndarray, "chunks k length"],
        documents: Int64[np.ndarray, "chunks"],
        chunks: Int64[np.ndarray, "chunks"],
        random: np.random.Generator,
    ) -> None:
        """Replace one neighbour of each chunk by the chunk's own text and continuation, shifted."""
        size, k = self.neighbours.chunk_size, found.shape[1]
        shifts = random.integers(-(size // 2), size // 2 + 1, len(chunks))
        places = random.integers(k, size=len(chunks))
        there = documents >= 0
        text = self.neighbours.text(documents[there], chunks[there] * size + shifts[there], found.shape[2])
        found[np.flatnonzero(there), places[there]] = text


def _of_others(
    documents: Int64[np.ndarray, "rows chunks"], numbers: Int64[np.ndarray, "rows chunks"]
) -> tuple[Int64[np.ndarray, "rows chunks"], Int64[np.ndarray, "rows chunks"]]:
    """Put in the place of each chunk the one that stands half of all chunks further on."""
    there = documents >= 0
    moved = documents.copy(), numbers.copy()
    for each in moved:
        found = each[there]
        each[there] = np.roll(found, len(found) // 2)
    return moved


def ended_chunks(
    rows: Sequence[Sequence[Stretch]], chunk_size: int, *, carries_state: bool
) -> tuple[Int64[np.ndarray, "rows chunks"], Int64[np.ndarray, "rows chunks"]]:
    """Return document and number of each chunk whose last token is read, in order for each row; -1 pads shorter rows.

    A stretch that begins at token ``b`` of a document reads token ``b - 1`` first, and does not read its last token.
    That first token ends a chunk only if the row's state holds the chunk.

    Args:
        rows: What each row reads.
        chunk_size: Tokens of a chunk.
        carries_state: Whether rows go on from an earlier window.
    """
    first = 0 if carries_state else 1
    found = [
        [
            (stretch.document, end // chunk_size - 1)
            for stretch in row
            for end in range(
                max(-(-(stretch.begin + first) // chunk_size), 1) * chunk_size,
                stretch.begin + stretch.length,
                chunk_size,
            )
        ]
        for row in rows
    ]
    most = max(map(len, found), default=0)
    padded = np.full((len(found), most, 2), -1, dtype=np.int64)
    for row, chunks in enumerate(found):
        if chunks:
            padded[row, : len(chunks)] = chunks
    return padded[..., 0].copy(), padded[..., 1].copy()


@runtime_checkable
class FindsNeighbours(Protocol):
    """Finds the neighbours of chunks, as `ChunkNeighbours` does."""

    @property
    def chunk_size(self) -> int:
        """Tokens of a chunk."""
        ...

    def tokens(
        self, documents: Int64[np.ndarray, "*shape"], numbers: Int64[np.ndarray, "*shape"]
    ) -> Int64[np.ndarray, "*shape k length"]:
        """Return the neighbours of chunks, given their documents and numbers in them."""
        ...


def neighbour_inputs(
    neighbours: FindsNeighbours | None,
    documents: Int64[np.ndarray, "batch"],
    begins: Int64[np.ndarray, "batch"],
    lengths: Int64[np.ndarray, "batch"],
    *,
    carries_state: bool,
) -> dict[str, Tensor]:
    """Return the neighbours for a call whose rows read one document each, as `Batch.extra_inputs`.

    Args:
        neighbours: Finds them; None for a call without neighbours.
        documents: Document of each row.
        begins: Position there of the token that its first column predicts.
        lengths: Its columns that are no padding.
        carries_state: Whether the rows go on from an earlier call.
    """
    if neighbours is None:
        return {}
    rows = [
        [Stretch(0, document, begin, length)]
        for document, begin, length in zip(documents.tolist(), begins.tolist(), lengths.tolist(), strict=True)
    ]
    chunks = ended_chunks(rows, neighbours.chunk_size, carries_state=carries_state)
    return {"neighbours": torch.from_numpy(neighbours.tokens(*chunks))}
