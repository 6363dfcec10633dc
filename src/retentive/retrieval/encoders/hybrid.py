"""Lexical and dense ranks together: reciprocal rank fusion (Cormack et al. 2009)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from retentive.config_types import check_count, check_types
from retentive.retrieval.encoders.lexical import LexicalEncoder
from retentive.retrieval.encoders.protocol import Encoder, EncoderKind, RankedIds, VectorEncoder, WordEncoder


@dataclass(frozen=True)
class HybridEncoder:
    """Two encoders whose answers are fused by rank, so that their scores need not be comparable.

    Attributes:
        dense: The encoder of vectors.
        lexical: The encoder of words.
        depth: Number of answers of each that are fused; more if more neighbours are requested.
        rank_constant: The constant of the paper (60): the larger, the less a first rank counts more than a second.
    """

    dense: VectorEncoder
    lexical: WordEncoder = field(default_factory=LexicalEncoder)
    depth: int = 100
    rank_constant: float = 60.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_count("depth", self.depth, unit="answer")
        if self.rank_constant <= 0:
            raise ValueError(f"rank_constant must be positive, but is {self.rank_constant}.")

    def settings(self) -> dict[str, Any]:
        """The settings of both encoders and of the fusion."""
        fused = {"kind": "hybrid", "depth": self.depth, "rank_constant": self.rank_constant}
        return fused | {"dense": self.dense.settings(), "lexical": self.lexical.settings()}

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the order of answers."""
        parts = [self.dense.fingerprint(), self.lexical.fingerprint(), str(self.depth), str(self.rank_constant)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def fuse(
        self, rankings: list[RankedIds], k: int
    ) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
        """Reciprocal rank fusion; see `fuse_ranks`."""
        return fuse_ranks(rankings, k, self.rank_constant)


class HybridKind:
    """How hybrid encoders are made: of words, and of an encoder of vectors that another kind makes.

    Args:
        kinds: The dictionary of all kinds, where the kind of the vectors is looked up.
    """

    def __init__(self, kinds: Mapping[str, EncoderKind]) -> None:
        self._kinds = kinds

    def make(self, model: str | Path | None = None, **options: Any) -> HybridEncoder:
        """Make an encoder of words and of the vectors of a model.

        Raises:
            ValueError: If there is no model.
        """
        if model is None:
            raise ValueError("encoder hybrid needs model=, a folder or a hub id such as bert-base-cased.")
        languages = {name: options.pop(name) for name in ("stem", "stop_words") if name in options}
        dense, lexical = self._kinds["dense"].make(model, **options), self._kinds["lexical"].make(None, **languages)
        assert isinstance(dense, VectorEncoder)
        assert isinstance(lexical, WordEncoder)
        return HybridEncoder(dense, lexical)

    def from_settings(self, settings: Mapping[str, Any]) -> Encoder | None:
        """Make the encoder of a manifest; ``None`` if one of its parts is of a kind that is not known."""
        parts = [self._kinds.get(settings[part].get("kind", "")) for part in ("dense", "lexical")]
        if parts[0] is None or parts[1] is None:
            return None
        dense, lexical = parts[0].from_settings(settings["dense"]), parts[1].from_settings(settings["lexical"])
        if not isinstance(dense, VectorEncoder) or not isinstance(lexical, WordEncoder):
            return None
        return HybridEncoder(dense, lexical, depth=settings["depth"], rank_constant=settings["rank_constant"])


def fuse_ranks(
    rankings: list[RankedIds], k: int, rank_constant: float = 60.0
) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """The ``k`` best ids by the sum of ``1 / (rank_constant + rank)`` over rankings, ranks from 1.

    Ids in no ranking are not answers. Of equal sums the smaller id comes first. Missing answers are -1, with score 0.
    """
    ids = np.concatenate(rankings, axis=1)
    gains = [np.broadcast_to(1.0 / (rank_constant + 1 + np.arange(r.shape[1])), r.shape) for r in rankings]
    gain = np.where(ids >= 0, np.concatenate(gains, axis=1), 0.0)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, gain = np.take_along_axis(ids, order, axis=1), np.take_along_axis(gain, order, axis=1)
    # Equal ids are adjacent now: the first of each run takes the sum of the run.
    for distance in range(1, len(rankings)):
        follows = (ids[:, distance:] == ids[:, :-distance]) & (ids[:, distance:] >= 0)
        gain[:, :-distance] += np.where(follows, gain[:, distance:], 0.0)
    repeated = np.zeros(ids.shape, dtype=np.bool_)
    repeated[:, 1:] = ids[:, 1:] == ids[:, :-1]
    gain = np.where(repeated | (ids < 0), 0.0, gain)
    best = np.argsort(-gain, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(gain, best, axis=1)
    chosen = np.where(scores > 0, np.take_along_axis(ids, best, axis=1), -1)
    missing = max(k - chosen.shape[1], 0)
    chosen = np.pad(chosen, ((0, 0), (0, missing)), constant_values=-1)
    return np.pad(scores, ((0, 0), (0, missing))).astype(np.float32), chosen.astype(np.int64)
