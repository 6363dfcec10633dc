"""Nearest-neighbour language model (kNN-LM, Khandelwal et al. 2020, arXiv:1911.00172).

Every token of the datastore is kept under the hidden state that it was predicted from. What followed the nearest hidden
states is mixed into the model's own prediction; nothing is trained but the temperature and the share of the mixture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from retentive.data.batch import IGNORED
from retentive.data.evaluation_windows import EvaluationBatch
from retentive.evaluation.measures.chunk_scores import Chunks, ChunkScores, ChunkSums
from retentive.evaluation.measures.documents import Documents
from retentive.evaluation.measures.mode import evaluating
from retentive.evaluation.measures.scoring import Hook, quiet
from retentive.files import explain_odd_content, read_json, write_json
from retentive.models.base import DecoderModel
from retentive.models.decoder import blocks_of
from retentive.retrieval.blocks.block import key_of, read_block, write_block
from retentive.retrieval.blocks.vectors import VECTORS, VectorRows
from retentive.retrieval.engines.engine import LocalEngine
from retentive.retrieval.index import index_kind
from retentive.retrieval.index.choice import IndexConfig, inverted_lists
from retentive.retrieval.index.protocol import NearestVectors

Which = Literal["right", "shuffled", "random"]
VALUES = "values"
ROWS_PER_BLOCK = 1 << 17
FEW = 20_000
"""Up to this number of keys every one is compared."""

TEMPERATURES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Tried: as shares of the mean distance of what is found."""

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How what is found is mixed in.

    Attributes:
        share: Of the found tokens in the prediction; the rest is the model's.
        temperature: Distances are divided by it.
    """

    share: float
    temperature: float


@dataclass(frozen=True, slots=True)
class _Found:
    """What is found for some tokens: squared distances and the tokens that followed, the nearest first."""

    distances: Float32[np.ndarray, "tokens k"]
    following: Int64[np.ndarray, "tokens k"]


class NearestTokens:
    """The tokens of some documents under the hidden states of a model, in a vector index on disk.

    Args:
        folder: Where keys, tokens and index are kept; made once.
        model: Whose hidden states are the keys.
        documents: The datastore's.
        layer: The block whose feed-forward's input, normalised, is the key (the paper's choice, for the last block),
            from 0; negative ones count from the last.
        windows: Tokens read together, and from window to window.
        on_tokens: Called with the number of tokens read since its last call.
    """

    def __init__(
        self,
        folder: Path,
        model: DecoderModel,
        documents: Documents,
        *,
        layer: int,
        windows: tuple[int, int],
        on_tokens: Hook = quiet,
    ) -> None:
        self.model, self.layer, self.windows = model, layer, windows
        note = folder / "keys.json"
        if not note.exists():
            write_json(note, self._keep(folder, documents, on_tokens))
        cure = "delete its folder: the keys are then made again"
        made = read_json(note, cure=cure)
        with explain_odd_content(note, cure=cure):
            self._vectors = VectorRows(folder, made["keys"], made["rows"], made["dimension"])
        values = [read_block(folder, VALUES, key).arrays[VALUES] for key in made["keys"]]
        self._values = np.concatenate(values)
        kind, count = index_kind("faiss"), len(self._vectors)
        lists = min(inverted_lists(count), 1024)
        config = IndexConfig(factory="Flat" if count <= FEW else f"IVF{lists},Flat", recall=0.9)
        record = kind.build(folder, self._vectors, config, first_block=0, engine=LocalEngine(), say=lambda _: None)
        self._index: NearestVectors = kind.open(folder, record.key, self._vectors)

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._values)

    def _keep(self, folder: Path, documents: Documents, on_tokens: Hook) -> dict[str, object]:
        keys: list[str] = []
        rows: list[int] = []
        waiting: list[tuple[np.ndarray, np.ndarray]] = []

        def write() -> None:
            key = key_of("nearest tokens", len(keys))
            vectors, values = (np.concatenate(each) for each in zip(*waiting, strict=True))
            write_block(folder, VECTORS, key, {"vectors": vectors})
            write_block(folder, VALUES, key, {VALUES: values})
            keys.append(key)
            rows.append(len(values))
            waiting.clear()

        for batch in self._batches(documents):
            hidden, _ = self._read(batch)
            there = batch.labels != IGNORED
            waiting.append((hidden[there.numpy()], batch.labels[there].numpy()))
            on_tokens(len(waiting[-1][1]))
            if sum(len(values) for _, values in waiting) >= ROWS_PER_BLOCK:
                write()
        if waiting:
            write()
        return {"keys": keys, "rows": rows, "dimension": self.model.config.decoder.embedding.hidden_size}

    def _batches(self, documents: Documents) -> Iterator[EvaluationBatch]:
        window, stride = self.windows
        return iter(documents.windows(window=window, stride=stride, batch_size=8))

    def _read(
        self, batch: EvaluationBatch
    ) -> tuple[Float32[np.ndarray, "batch time size"], Float64[np.ndarray, "_ time"]]:
        """The hidden states of a batch, and the loss of its labels in nats."""
        kept: list[torch.Tensor] = []
        norm = blocks_of(self.model.decoder)[self.layer].feed_forward_norm
        handle = norm.register_forward_hook(lambda _module, _given, output: kept.append(cast("torch.Tensor", output)))
        mask = None if bool(batch.mask.all()) else batch.mask
        try:
            with evaluating(self.model):
                logits = self.model(batch.tokens, mask=mask).logits
        finally:
            handle.remove()
        assert logits is not None
        labels = batch.labels.flatten()
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels, ignore_index=IGNORED, reduction="none"
        )
        return kept[0].float().numpy(), loss.view_as(batch.labels).double().numpy()

    def _find(self, queries: Float32[np.ndarray, "tokens size"], k: int, which: Which) -> _Found:
        if which == "random":
            ids = np.random.default_rng(0).integers(len(self), size=(len(queries), k))
            keys = self._vectors.gather(ids.reshape(-1)).reshape(*ids.shape, -1)
            distances = np.square(keys - queries[:, None]).sum(-1)
        else:
            scores, ids = self._index.search(np.ascontiguousarray(queries), k)
            distances = -scores
            if which == "shuffled":  # what was found for another token
                order = np.random.default_rng(0).permutation(len(queries))
                ids, distances = ids[order], distances[order]
        there = ids >= 0
        following = np.where(there, self._values[np.maximum(ids, 0)], -1)
        return _Found(np.where(there, distances, np.inf).astype(np.float32), following)

    def fit(self, documents: Documents, *, k: int) -> Mixture:
        """The share and the temperature with the least loss on documents that are measured nowhere else.

        Args:
            documents: Of held-out text.
            k: Tokens that are found for each.
        """
        losses: list[np.ndarray] = []
        found: list[_Found] = []
        labels: list[np.ndarray] = []
        for batch in self._batches(documents):
            hidden, loss = self._read(batch)
            there = (batch.labels != IGNORED).numpy()
            losses.append(loss[there])
            labels.append(batch.labels.numpy()[there])
            found.append(self._find(hidden[there], k, "right"))
        together = _Found(
            np.concatenate([each.distances for each in found]), np.concatenate([each.following for each in found])
        )
        loss, label = np.concatenate(losses), np.concatenate(labels)
        scale = float(together.distances[np.isfinite(together.distances)].mean())
        tried = [
            (float(_mixed(loss, label, together, mixture).sum()), mixture)
            for temperature in TEMPERATURES
            for share in SHARES
            for mixture in (Mixture(share=share, temperature=temperature * scale),)
        ]
        return min(tried, key=lambda pair: pair[0])[1]

    def score(
        self, chunks: Chunks, mixture: Mixture, *, k: int, which: Which = "right", on_tokens: Hook = quiet
    ) -> ChunkScores:
        """Score every token once, with what is found mixed in.

        Args:
            chunks: What is scored.
            mixture: How it is mixed in.
            k: Tokens that are found for each.
            which: What is found; or for another token of the batch; or any.
            on_tokens: Called with the number of tokens scored since its last call.
        """
        sums = ChunkSums(chunks)
        for batch in self._batches(chunks.documents):
            hidden, loss = self._read(batch)
            there = (batch.labels != IGNORED).numpy()
            found = self._find(hidden[there], k, which)
            loss[there] = _mixed(loss[there], batch.labels.numpy()[there], found, mixture)
            on_tokens(sums.add(batch, loss))
        return sums.scores()


def _mixed(
    loss: Float64[np.ndarray, "tokens"], labels: Int64[np.ndarray, "tokens"], found: _Found, mixture: Mixture
) -> Float64[np.ndarray, "tokens"]:
    """The loss of the mixture in nats, from that of the model and what was found."""
    if mixture.share == 0:
        return loss
    scores = -found.distances.astype(np.float64) / mixture.temperature
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    probability = (weights * (found.following == labels[:, None])).sum(1)
    with np.errstate(divide="ignore"):
        return -np.logaddexp(math.log1p(-mixture.share) - loss, np.log(mixture.share * probability))
