"""Lexical and dense answers together: by scores (Bruch et al. 2023), or by ranks (Cormack et al. 2009)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from retentive.config_types import check_count, check_types
from retentive.retrieval.encoders.lexical import LexicalEncoder
from retentive.retrieval.encoders.protocol import (
    Encoder,
    EncoderKind,
    RankedIds,
    ScoredIds,
    VectorEncoder,
    WordEncoder,
)

_PRESENT = 1e-6
"""What an answer has for standing in a ranking at all."""


@dataclass(frozen=True)
class HybridEncoder:
    """Two encoders whose answers are fused.

    By scores: those of each encoder are moved to 0 ... 1 (1 for its best answer, 0 for the one at ``depth``) and added
    with weights (Bruch et al. 2023, arXiv:2210.11934). By ranks: the sum of ``1 / (rank_constant + rank)``.

    Attributes:
        dense: The encoder of vectors.
        lexical: The encoder of words.
        depth: Number of answers of each that are fused; more if more neighbours are requested.
        dense_weight: Weight of the scores of vectors, 0 to 1; words have the rest. ``None`` fuses by ranks.
        rank_constant: The constant of fusing by ranks: the larger, the less a first rank counts more than a second.
    """

    dense: VectorEncoder
    lexical: WordEncoder = field(default_factory=LexicalEncoder)
    depth: int = 100
    dense_weight: float | None = 0.5
    rank_constant: float = 60.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_count("depth", self.depth, unit="answer")
        if self.dense_weight is not None and not 0 <= self.dense_weight <= 1:
            raise ValueError(f"dense_weight must be from 0 to 1, or None, but is {self.dense_weight}.")
        if self.rank_constant <= 0:
            raise ValueError(f"rank_constant must be positive, but is {self.rank_constant}.")

    def settings(self) -> dict[str, Any]:
        """The settings of both encoders and of the fusion."""
        fused: dict[str, Any] = {"kind": "hybrid", "depth": self.depth, "rank_constant": self.rank_constant}
        fused["dense_weight"] = self.dense_weight
        return fused | {"dense": self.dense.settings(), "lexical": self.lexical.settings()}

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the order of answers."""
        parts = [self.dense.fingerprint(), self.lexical.fingerprint(), str(self.depth), str(self.rank_constant)]
        parts.append(str(self.dense_weight))
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def fuse(
        self, rankings: list[ScoredIds], k: int
    ) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
        """Fuse the answers by words and those by vectors; see `fuse_scores` and `fuse_ranks`."""
        if self.dense_weight is None:
            return fuse_ranks([ids for _, ids in rankings], k, self.rank_constant)
        return fuse_scores(rankings, [1 - self.dense_weight, self.dense_weight], k, depth=self.depth)


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
        # Stores from before there were weights fuse by ranks.
        weight = settings.get("dense_weight")
        constant = settings["rank_constant"]
        return HybridEncoder(dense, lexical, depth=settings["depth"], dense_weight=weight, rank_constant=constant)


def fuse_ranks(
    rankings: list[RankedIds], k: int, rank_constant: float = 60.0
) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """The ``k`` best ids by the sum of ``1 / (rank_constant + rank)`` over rankings, ranks from 1.

    Ids in no ranking are not answers. Of equal sums the smaller id comes first. Missing answers are -1, with score 0.
    """
    gains = [np.broadcast_to(1.0 / (rank_constant + 1 + np.arange(r.shape[1])), r.shape) for r in rankings]
    return _best_sums(rankings, gains, k)


def fuse_scores(
    rankings: list[ScoredIds], weights: list[float], k: int, *, depth: int
) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """The ``k`` best ids by the weighted sum of scores, those of each ranking moved to 0 ... 1.

    1 is the best answer of a ranking, and 0 that at ``depth``, or its last one; what is further down, or in a ranking
    not at all, has 0 of it. Of equal sums the smaller id comes first. Missing answers are -1, with score 0.
    """
    gains: list[np.ndarray] = []
    for (scores, ids), weight in zip(rankings, weights, strict=True):
        known = np.where(ids >= 0, scores, np.nan).astype(np.float64)
        some = (ids[:, :1] >= 0) if ids.shape[1] else np.zeros((len(ids), 1), dtype=np.bool_)
        within = np.where(some, known[:, :depth], 0.0)
        top, last = np.nanmax(within, axis=1, keepdims=True), np.nanmin(within, axis=1, keepdims=True)
        # Of equal scores each is the best. What is at the end still counts more than what is not there.
        share = np.where(top > last, (known - last) / np.where(top > last, top - last, 1.0), 1.0)
        gains.append(weight * (np.nan_to_num(np.clip(share, 0.0, 1.0)) + _PRESENT))
    return _best_sums([ids for _, ids in rankings], gains, k)


def _best_sums(
    rankings: list[RankedIds], gains: list[np.ndarray], k: int
) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """The ``k`` ids with the largest sums of gains over rankings."""
    ids = np.concatenate(rankings, axis=1)
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
