"""Loss by position: whether a model uses what it read long ago, and works beyond the length of its training windows."""

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from retentive.evaluation.measures.documents import Coverage, Documents
from retentive.evaluation.measures.scoring import Hook, ScoredTokens, added_up, quiet, score_in_one_pass
from retentive.evaluation.measures.uncertainty import standard_error_of_ratio
from retentive.models.protocol import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionBucket:
    """Tokens that had about as many tokens before them.

    Attributes:
        first: Least number of tokens before a token of this bucket.
        last: Largest number, ``2 * first - 1``.
        nats_per_token: Mean loss.
        standard_error: Of the mean, from the differences between documents; None for a single one.
        tokens: Tokens in the bucket.
        documents: Documents that reach it.
    """

    first: int
    last: int
    nats_per_token: float
    standard_error: float | None
    tokens: int
    documents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LossByPosition:
    """Mean loss in buckets that double in width; buckets without tokens are left out.

    Far buckets hold long documents only, so compare models at one position sooner than positions of one model.
    """

    buckets: tuple[PositionBucket, ...]
    coverage: Coverage
    seconds: float


class PositionTally:
    """A running sum of the loss of each document in each bucket."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        shape = (len(documents.numbers), int(documents.lengths.max()).bit_length())
        self._nats, self._tokens = np.zeros(shape), np.zeros(shape, np.int64)

    def add(self, scored: ScoredTokens) -> None:
        """Add the losses of some tokens."""
        places = (np.searchsorted(self._documents.numbers, scored.document), _buckets(scored.position))
        np.add.at(self._nats, places, scored.nats)
        np.add.at(self._tokens, places, 1)

    def result(self, *, seconds: float) -> LossByPosition:
        """Return the mean of every bucket."""
        buckets: list[PositionBucket] = []
        for index, (nats, tokens) in enumerate(zip(self._nats.T, self._tokens.T, strict=True)):
            if not tokens.any():
                continue
            bucket = PositionBucket(
                first=1 << index,
                last=(2 << index) - 1,
                nats_per_token=float(nats.sum()) / int(tokens.sum()),
                standard_error=standard_error_of_ratio(nats, tokens),
                tokens=int(tokens.sum()),
                documents=int((tokens > 0).sum()),
            )
            buckets.append(bucket)
        return LossByPosition(buckets=tuple(buckets), coverage=self._documents.coverage, seconds=seconds)


def loss_by_position(
    model: LanguageModel, documents: Documents, *, chunk_size: int = 1024, batch_size: int = 8, on_tokens: Hook = quiet
) -> LossByPosition:
    """Measure in one pass with the carried state, so that every token sees its whole document so far.

    Arguments and errors are those of `bits_per_byte_in_one_pass`.
    """
    documents.check_model(model)
    begin = time.perf_counter()
    scores = score_in_one_pass(model, documents, chunk_size=chunk_size, batch_size=batch_size)
    tally = added_up(scores, PositionTally(documents), on_tokens)
    return tally.result(seconds=time.perf_counter() - begin)


def _buckets(position: Int64[np.ndarray, "tokens"]) -> Int64[np.ndarray, "tokens"]:
    """The power of two at or below each position, exactly."""
    _, exponent = np.frexp(position.astype(np.float64))
    return exponent.astype(np.int64) - 1
