"""Every way to use the datastore is measured on the same chunks, with right, random and other chunks' neighbours."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from retentive.checkpoints.weights import load_model
from retentive.data.neighbours.batches import FindsNeighbours
from retentive.data.neighbours.stores import ChunkNeighbours
from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.chunk_scores import (
    Chunks,
    ChunkScores,
    OthersNeighbours,
    OwnTextNeighbours,
    RandomNeighbours,
    score_chunks,
)
from retentive.evaluation.measures.documents import Coverage, Documents, select_documents
from retentive.evaluation.measures.overlap import overlaps
from retentive.experiments.retrieval_evidence.config import RetrievalEvidenceConfig
from retentive.experiments.retrieval_evidence.documentation import documentation_of
from retentive.experiments.retrieval_evidence.in_context import score_in_context
from retentive.experiments.retrieval_evidence.nearest_tokens import NearestTokens, Which
from retentive.experiments.retrieval_models.corpus import (
    CHUNK_SIZE,
    build_once,
    neighbours_of,
    noted_options,
    prepared,
    prepared_for,
)
from retentive.experiments.retrieval_models.scores import Measured, measured_once
from retentive.experiments.retrieval_models.training import (
    LONGER,
    RETRO,
    RETROFIT,
    STRIDE,
    TRANSFORMER,
    WINDOW,
    train_all,
    training_seconds,
)
from retentive.files import explain_odd_content, read_json, write_json
from retentive.files.paths import real_path
from retentive.files.progress import say

NONE, RIGHT, SHUFFLED, RANDOM, OWN = "none", "right", "shuffled", "random", "own text"
PLAIN, AS_LONG = "model alone", "model alone, trained as long as RETRO"
IN_CONTEXT, NEAREST, FITTED, SCRATCH = "neighbours in context", "nearest tokens (kNN-LM)", "RETROfit", "RETRO"
PRETRAINED = 0
"""The seed under which a given model is measured."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A way to use the datastore, and what is read."""

    way: str
    reads: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was measured.

    Attributes:
        chunks: The chunks that were scored.
        overlap: Share of each that stands in one piece in its nearest neighbours.
        measured: By seed and condition.
        made: Seconds that a way took before it could be measured, by seed and way: training, or keys and index.
        notes: What the ways were fitted to, in words.
    """

    chunks: Chunks
    overlap: Float64[np.ndarray, "chunks"]
    measured: Mapping[int, Mapping[Condition, Measured]]
    made: Mapping[int, Mapping[str, float]]
    notes: tuple[str, ...]


def gather(config: RetrievalEvidenceConfig) -> Evidence:
    """Prepare, train and score, each part once.

    Raises:
        FileNotFoundError: If there is no corpus or no model.
        ValueError: If too little text is held out, or the folder was made with other options.
    """
    with noted_options(config.output, _asked(config)):
        store = _store(config)
    build_once(config, store)
    documents = select_documents(store, max_bytes=config.heldout_bytes)
    chunks = Chunks(documents, CHUNK_SIZE)
    neighbours = neighbours_of(config, store, "heldout")
    work = _Work(config, store, chunks, neighbours, _others(documents, config.heldout_bytes))
    measured: dict[int, dict[Condition, Measured]] = {}
    made: dict[int, dict[str, float]] = {}
    if config.model is not None:
        measured[PRETRAINED], made[PRETRAINED] = work.untrained(config.model, PRETRAINED)
    else:
        models = train_all(config, store)
        for seed in config.seeds:
            measured[seed], made[seed] = work.untrained(models[TRANSFORMER, seed], seed)
            for way, kind in ((AS_LONG, LONGER), (FITTED, RETROFIT), (SCRATCH, RETRO)):
                found = work.trained(models[kind, seed], seed, way)
                measured[seed] |= found
                made[seed][way] = training_seconds(models[kind, seed])
            made[seed][PLAIN] = training_seconds(models[TRANSFORMER, seed])
            made[seed][FITTED] += made[seed][PLAIN]
    return Evidence(
        chunks=chunks,
        overlap=overlaps(chunks.tokens(), neighbours.database),
        measured=measured,
        made=made,
        notes=tuple(work.notes),
    )


def _asked(config: RetrievalEvidenceConfig) -> dict[str, Any]:
    """What may not differ when a folder is used again."""
    free = ("output", "seeds", "heldout_bytes", "side_by_side", "layer", "k", "datastore_bytes", "context", "resamples")
    corpus = None if config.corpus is None else real_path(config.corpus)
    return {name: value for name, value in asdict(config).items() if name not in free} | {"corpus": corpus}


def _store(config: RetrievalEvidenceConfig) -> TokenStore:
    if config.packages:
        source = documentation_of(config.packages, config.output / "documentation")
        return prepared_for(source, config.output / "store", config.model)
    return prepared(config, config.model)


def _others(documents: Documents, max_bytes: int) -> Documents:
    """Other held-out documents, to fit what a way leaves open."""
    sizes = documents.store.document_bytes(documents.split)
    measured = set(documents.numbers.tolist())
    others = [number for number in range(len(sizes)) if number not in measured]
    numbers: list[int] = []
    room: int = max([max_bytes, *([int(sizes[others].min())] if others else [])])  # one at least
    for number in others:
        if sizes[number] <= room:
            numbers.append(number)
            room -= int(sizes[number])
    if not numbers:
        raise ValueError(
            "heldout_bytes must leave held-out documents that the mixture of nearest tokens can be fitted on, but all "
            "are measured: give fewer, or more text."
        )
    whole = documents.coverage
    coverage = Coverage(
        split=documents.split,
        documents=len(numbers),
        documents_in_split=whole.documents_in_split,
        text_bytes=int(sizes[numbers].sum()),
        text_bytes_in_split=whole.text_bytes_in_split,
    )
    return Documents(store=documents.store, split=documents.split, numbers=np.array(numbers), coverage=coverage)


class _Work:
    """Measures conditions, each once."""

    def __init__(
        self,
        config: RetrievalEvidenceConfig,
        store: TokenStore,
        chunks: Chunks,
        neighbours: ChunkNeighbours,
        fitted_on: Documents,
    ) -> None:
        self.config, self.store, self.chunks, self.fitted_on = config, store, chunks, fitted_on
        self.notes: list[str] = []
        self.finders: dict[str, FindsNeighbours | None] = {
            NONE: None,
            RIGHT: neighbours,
            SHUFFLED: OthersNeighbours(neighbours, chunks),
            RANDOM: RandomNeighbours(neighbours.database),
            OWN: OwnTextNeighbours(neighbours),
        }

    def untrained(self, folder: Path, seed: int) -> tuple[dict[Condition, Measured], dict[str, float]]:
        """A model alone, with neighbours in its context, and with nearest tokens."""
        model = load_model(folder)
        made: dict[str, float] = {PLAIN: 0.0, IN_CONTEXT: 0.0}
        found = {
            Condition(PLAIN, NONE): self._measured(
                folder, seed, PLAIN, NONE, lambda: score_chunks(model, self.chunks, window=WINDOW, stride=STRIDE)
            )
        }
        for reads in (NONE, RIGHT, SHUFFLED, RANDOM):
            finder = self.finders[reads]
            found[Condition(IN_CONTEXT, reads)] = self._measured(
                folder,
                seed,
                IN_CONTEXT,
                reads,
                lambda finder=finder: score_in_context(model, self.chunks, finder, context=self.config.context),
            )
        nearest, mixture, made[NEAREST] = self._nearest(model, folder, seed)
        whiches: tuple[Which, ...] = ("right", "shuffled", "random")
        for which in whiches:
            found[Condition(NEAREST, which)] = self._measured(
                folder,
                seed,
                NEAREST,
                which,
                lambda which=which: nearest.score(self.chunks, mixture, k=self.config.k, which=which),
            )
        found[Condition(NEAREST, NONE)] = found[Condition(PLAIN, NONE)]
        return found, made

    def trained(self, folder: Path, seed: int, way: str) -> dict[Condition, Measured]:
        """A model with every kind of neighbours that it reads."""
        model = load_model(folder)
        kinds = (NONE,) if model.chunked_reading is None else (NONE, RIGHT, SHUFFLED, RANDOM, OWN)

        def measure(reads: str) -> Callable[[], ChunkScores]:
            return lambda: score_chunks(model, self.chunks, self.finders[reads], window=WINDOW, stride=STRIDE)

        return {Condition(way, reads): self._measured(folder, seed, way, reads, measure(reads)) for reads in kinds}

    def _nearest(self, model: Any, folder: Path, seed: int) -> tuple[NearestTokens, Any, float]:
        config = self.config
        place = config.output / f"nearest-{seed}-{config.layer}-{config.datastore_bytes}"
        documents = select_documents(self.store, split="train", max_bytes=config.datastore_bytes)
        begin = time.process_time()
        nearest = NearestTokens(place, model, documents, layer=config.layer, windows=(WINDOW, STRIDE))
        seconds = time.process_time() - begin
        note = place / "seconds.json"
        if not note.exists():
            write_json(note, {"seconds": seconds})
        cure = "delete its folder"
        written = read_json(note, cure=cure)
        with explain_odd_content(note, cure=cure):
            seconds = float(written["seconds"])
        mixture = nearest.fit(self.fitted_on, k=config.k)
        self.notes.append(
            f"Seed {seed}: {len(nearest):,} nearest tokens, share {mixture.share} and temperature "
            f"{mixture.temperature:.3g} fitted on {self.fitted_on.coverage.documents} other held-out documents."
        )
        return nearest, mixture, seconds

    def _measured(self, folder: Path, seed: int, way: str, reads: str, measure: Callable[[], ChunkScores]) -> Measured:
        config = self.config
        facts: dict[str, Any] = {"model": folder, "bytes": config.heldout_bytes}
        if way == IN_CONTEXT:
            facts["context"] = config.context
        if way == NEAREST:
            facts |= {
                "keys": "feed-forward input",
                "k": config.k,
                "layer": config.layer,
                "datastore_bytes": config.datastore_bytes,
            }
        label = f"{way}, {reads}"
        say(f"seed {seed}: {label}")
        return measured_once(config.output / f"evidence-{seed}", label, facts, measure)
