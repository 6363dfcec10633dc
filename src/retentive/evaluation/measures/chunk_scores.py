"""The loss of each chunk of held-out documents, with neighbours and without."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from retentive.data.batch import IGNORED
from retentive.data.evaluation_windows import EvaluationBatch
from retentive.data.neighbours.batches import FindsNeighbours, neighbour_inputs
from retentive.data.neighbours.stores import ChunkNeighbours
from retentive.evaluation.measures.documents import Documents
from retentive.evaluation.measures.mode import evaluating
from retentive.evaluation.measures.scoring import Hook, check_whole_chunks, quiet
from retentive.models.protocol import LanguageModel
from retentive.retrieval import Datastore


@dataclass(frozen=True, slots=True)
class Chunks:
    """All chunks of some documents, in order; the last of a document may be shorter.

    Attributes:
        documents: What they are cut from.
        chunk_size: Tokens of a chunk.
    """

    documents: Documents
    chunk_size: int

    @property
    def counts(self) -> Int64[np.ndarray, "documents"]:
        """Chunks of each document."""
        return -(-self.documents.lengths // self.chunk_size)

    @property
    def first(self) -> Int64[np.ndarray, "documents"]:
        """Place of each document's first chunk among all."""
        return np.cumsum(self.counts) - self.counts

    @property
    def owners(self) -> Int64[np.ndarray, "chunks"]:
        """Number in its split of each chunk's document."""
        return np.repeat(self.documents.numbers, self.counts)

    @property
    def numbers(self) -> Int64[np.ndarray, "chunks"]:
        """Number of each chunk in its document."""
        return np.arange(int(self.counts.sum())) - np.repeat(self.first, self.counts)

    def tokens(self) -> Int64[np.ndarray, "chunks length"]:
        """Token ids, -1 after the end of a shorter chunk."""
        rows = np.full((int(self.counts.sum()), self.chunk_size), -1, dtype=np.int64)
        for first, count, number in zip(self.first, self.counts, self.documents.numbers, strict=True):
            text = self.documents.text(int(number))
            rows[first : first + count].reshape(-1)[: len(text)] = text
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkScores:
    """The loss of chunks, in the order of `Chunks`.

    Attributes:
        nats: Sum over each chunk's tokens.
        num_bytes: Bytes of each chunk's text.
    """

    nats: Float64[np.ndarray, "chunks"]
    num_bytes: Int64[np.ndarray, "chunks"]

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte over all chunks."""
        return float(self.nats.sum() / np.log(2) / self.num_bytes.sum())


@dataclass(frozen=True)
class _OfChunks:
    """Neighbours made of those that belong to each chunk."""

    neighbours: ChunkNeighbours

    @property
    def chunk_size(self) -> int:
        """Tokens of a chunk."""
        return self.neighbours.chunk_size


@dataclass(frozen=True)
class _OfDatastore:
    """Neighbours from a datastore, which need not be the one of training."""

    database: Datastore

    @property
    def chunk_size(self) -> int:
        """Tokens of a chunk."""
        return self.database.chunk_size


@dataclass(frozen=True)
class OthersNeighbours(_OfChunks):
    """Each chunk is given the neighbours of another one, by a permutation of all chunks.

    Attributes:
        neighbours: Finds the neighbours that belong to each chunk.
        chunks: All chunks that there are.
        seed: Decides the permutation.
    """

    chunks: Chunks
    seed: int = 0

    def tokens(
        self, documents: Int64[np.ndarray, "*shape"], numbers: Int64[np.ndarray, "*shape"]
    ) -> Int64[np.ndarray, "*shape k length"]:
        """Neighbours of other chunks."""
        owners, places = self.chunks.owners, self.chunks.numbers
        # Only whole chunks have neighbours that are read.
        whole = np.flatnonzero(
            places < (np.repeat(self.chunks.documents.lengths, self.chunks.counts) // self.chunk_size)
        )
        other = np.random.default_rng(self.seed).permutation(whole)
        of_chunk = dict(zip(zip(owners[whole].tolist(), places[whole].tolist(), strict=True), other, strict=True))
        flat = zip(documents.reshape(-1).tolist(), numbers.reshape(-1).tolist(), strict=True)
        chosen = np.array([of_chunk.get(key, -1) for key in flat], dtype=np.int64)
        there = chosen >= 0
        given = np.where(there, owners[chosen], -1), np.where(there, places[chosen], -1)
        return self.neighbours.tokens(given[0].reshape(documents.shape), given[1].reshape(documents.shape))


@dataclass(frozen=True)
class RandomNeighbours(_OfDatastore):
    """Each chunk is given chunks of the datastore that are drawn at random.

    Attributes:
        database: The datastore.
        k: Neighbours of each.
        seed: Decides which.
    """

    k: int = 2
    seed: int = 0

    def tokens(
        self, documents: Int64[np.ndarray, "*shape"], numbers: Int64[np.ndarray, "*shape"]
    ) -> Int64[np.ndarray, "*shape k length"]:
        """Neighbours at random; a chunk is given the same ones whatever is asked for beside it."""
        corpus = self.database.corpus
        keys = zip(documents.reshape(-1).tolist(), numbers.reshape(-1).tolist(), strict=True)
        drawn = [
            np.random.default_rng((self.seed, *key)).integers(corpus.num_chunks, size=self.k)
            if key[0] >= 0
            else np.full(self.k, -1)
            for key in keys
        ]
        return corpus.with_continuations(np.array(drawn, dtype=np.int64).reshape(*documents.shape, self.k))


@dataclass(frozen=True)
class OwnTextNeighbours(_OfChunks):
    """One neighbour of each chunk is its own text and continuation, shifted: what a model that copies reads best.

    Attributes:
        neighbours: Finds the others.
        seed: Decides the shifts, of at most half a chunk, and which neighbour it is.
    """

    seed: int = 0

    def tokens(
        self, documents: Int64[np.ndarray, "*shape"], numbers: Int64[np.ndarray, "*shape"]
    ) -> Int64[np.ndarray, "*shape k length"]:
        """Neighbours, one of them the own text."""
        found = self.neighbours.tokens(documents, numbers)
        there, half = documents >= 0, self.chunk_size // 2
        owners, places = documents[there], numbers[there]
        # Drawn for each chunk by itself: whatever is asked for beside it, it is given the same text.
        drawn = [
            np.random.default_rng((self.seed, *chunk)) for chunk in zip(owners.tolist(), places.tolist(), strict=True)
        ]
        shifts = np.array([each.integers(-half, half + 1) for each in drawn], dtype=np.int64)
        slots = np.array([each.integers(found.shape[-2]) for each in drawn], dtype=np.int64)
        text = self.neighbours.text(owners, places * self.chunk_size + shifts, found.shape[-1])
        rows = found[there]
        rows[np.arange(len(rows)), slots] = text
        found[there] = rows
        return found


@dataclass(frozen=True)
class FoundNeighbours(_OfDatastore):
    """Each chunk is looked for in a datastore, which need not be the one of training.

    Attributes:
        database: The datastore that is searched.
        chunks: All chunks that there are; none of their documents is in the datastore.
        k: Neighbours of each.
    """

    chunks: Chunks
    k: int = 2

    def tokens(
        self, documents: Int64[np.ndarray, "*shape"], numbers: Int64[np.ndarray, "*shape"]
    ) -> Int64[np.ndarray, "*shape k length"]:
        """Neighbours of chunks."""
        found = np.full((documents.size, self.k, 2 * self.chunk_size), -1, dtype=np.int64)
        there = np.flatnonzero(documents.reshape(-1) >= 0)
        texts = [
            self.chunks.documents.text(int(document))[number * self.chunk_size :][: self.chunk_size].astype(np.int64)
            for document, number in zip(documents.reshape(-1)[there], numbers.reshape(-1)[there], strict=True)
        ]
        if texts:
            found[there] = self.database.search(np.stack(texts), k=self.k).tokens
        return found.reshape(*documents.shape, self.k, -1)


def score_chunks(
    model: LanguageModel,
    chunks: Chunks,
    neighbours: FindsNeighbours | None = None,
    *,
    window: int = 1024,
    stride: int = 512,
    batch_size: int = 8,
    on_tokens: Hook = quiet,
) -> ChunkScores:
    """Score every token once, in overlapping windows that begin where a chunk does.

    Args:
        model: The model to measure; it stays in the mode it is in (training or evaluation).
        chunks: What is scored.
        neighbours: Of the chunks; None reads none.
        window: Tokens read together.
        stride: Tokens from window to window, whole chunks.
        batch_size: Windows side by side. Changes speed and memory, never results.
        on_tokens: Called with the number of tokens scored since its last call.

    Raises:
        ValueError: If a window would begin inside a chunk, or neighbours are of chunks of another size.
    """
    size, documents = chunks.chunk_size, chunks.documents
    check_whole_chunks(stride, size)
    if neighbours is not None and neighbours.chunk_size != size:
        raise ValueError(f"neighbours must be of chunks of {size} tokens, but are of {neighbours.chunk_size}.")
    documents.check_model(model)
    sums = ChunkSums(chunks)
    for batch in documents.windows(window=window, stride=stride, batch_size=batch_size):
        on_tokens(sums.add(batch, _loss(model, batch, neighbours)))
    return sums.scores()


class ChunkSums:
    """Adds up the loss of tokens by the chunk that they are in.

    Args:
        chunks: All chunks that there are.
    """

    def __init__(self, chunks: Chunks) -> None:
        self._size = chunks.chunk_size
        numbers = chunks.documents.numbers
        self._place = {int(number): int(first) for number, first in zip(numbers, chunks.first, strict=True)}
        count = int(chunks.counts.sum())
        self._nats, self._bytes = np.zeros(count), np.zeros(count, dtype=np.int64)

    def add(self, batch: EvaluationBatch, loss: Float64[np.ndarray, "batch time"]) -> int:
        """Add the tokens of a batch that have labels, and return their number."""
        rows, columns = np.nonzero((batch.labels != IGNORED).numpy())
        first = np.array([self._place[document] for document in batch.document.tolist()])
        of_chunk = first[rows] + (batch.offset.numpy()[rows] + columns) // self._size
        np.add.at(self._nats, of_chunk, loss[rows, columns])
        np.add.at(self._bytes, of_chunk, batch.scored_bytes.numpy()[rows, columns])
        return len(rows)

    def scores(self) -> ChunkScores:
        """The sums so far."""
        return ChunkScores(nats=self._nats, num_bytes=self._bytes)


def _loss(
    model: LanguageModel, batch: EvaluationBatch, neighbours: FindsNeighbours | None
) -> Float64[np.ndarray, "batch time"]:
    mask = None if bool(batch.mask.all()) else batch.mask
    lengths = batch.mask.sum(1).numpy()
    extra_inputs = neighbour_inputs(
        neighbours, batch.document.numpy(), batch.offset.numpy(), lengths, carries_state=False
    )
    device = model.device
    beside: dict[str, Any] = {name: tensor.to(device) for name, tensor in extra_inputs.items()}
    with evaluating(model):
        output = model(batch.tokens.to(device), mask=None if mask is None else mask.to(device), **beside)
        assert output.logits is not None
        loss = torch.nn.functional.cross_entropy(
            output.logits.float().flatten(0, 1),
            batch.labels.flatten().to(device),
            ignore_index=IGNORED,
            reduction="none",
        )
    return loss.view_as(batch.labels).double().cpu().numpy()
