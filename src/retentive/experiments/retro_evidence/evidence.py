"""Do neighbours help? RETRO on and off, with controls, and Transformers of the same size, on held-out text."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from retentive.checkpoints.weights import load_model
from retentive.config_types import check_types
from retentive.data.neighbours.batches import FindsNeighbours
from retentive.data.neighbours.stores import ChunkNeighbours
from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.chunk_scores import (
    Chunks,
    ChunkScores,
    FoundNeighbours,
    OthersNeighbours,
    OwnTextNeighbours,
    score_chunks,
)
from retentive.evaluation.measures.documents import select_documents
from retentive.evaluation.measures.overlap import overlaps
from retentive.experiments.retrieval_models.config import ModelsConfig
from retentive.experiments.retrieval_models.corpus import CHUNK_SIZE, build_once, neighbours_of, noted_options, prepared
from retentive.experiments.retrieval_models.scores import measured_once
from retentive.experiments.retrieval_models.training import (
    KINDS,
    LONGER,
    RETRO,
    RETROFIT,
    STRIDE,
    WINDOW,
    Trained,
    model_configs,
    num_parameters,
    train_all,
)
from retentive.experiments.retrieval_models.training import TRANSFORMER as PLAIN
from retentive.files.paths import real_path
from retentive.files.progress import ProgressBar
from retentive.retrieval import Datastore, make_encoder

TRANSFORMER, TRANSFORMER_LONGER = "Transformer, as many steps", "Transformer, as many seconds"
OFF, ON, SHUFFLED, OWN = "RETRO[OFF]", "RETRO[ON]", "RETRO[ON], others' neighbours", "RETRO[ON], own text"
FIT_OFF, FIT_ON = "RETROfit[OFF]", "RETROfit[ON]"
FIT_SHUFFLED, FIT_OWN = "RETROfit[ON], others' neighbours", "RETROfit[ON], own text"
LEXICAL_PART, DENSE_PART = "RETRO[ON], words, part of the text", "RETRO[ON], dense, part of the text"
MODEL_OF = {TRANSFORMER: PLAIN, TRANSFORMER_LONGER: LONGER} | dict.fromkeys(
    (FIT_OFF, FIT_ON, FIT_SHUFFLED, FIT_OWN), RETROFIT
)
"""Condition -> kind of model; RETRO for all others."""


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig(ModelsConfig):
    """Train small RETROs and Transformers of the same size on a text, and compare them on held-out documents.

    Further options are those of `ModelsConfig`.

    Args:
        dense_model: Folder or hub id of a dense encoder, to compare with the lexical one; null compares none.
        dense_share: Share of the training documents that this comparison searches.
    """

    output: Path = Path("runs/retro_evidence")
    dense_model: str | None = None
    dense_share: float = 0.25

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        check_types(self)
        if not 0 < self.dense_share <= 1:
            raise ValueError(f"dense_share must be above 0 and at most 1, but is {self.dense_share}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was measured.

    Attributes:
        chunks: The chunks that were scored.
        overlap: Share of each that stands in one piece in its nearest neighbours.
        scores: By seed and condition.
        parameters: Weights of each kind of model.
        neighbours: What RETRO reads when it is on.
        models: Folder of each trained model, by kind and seed.
    """

    chunks: Chunks
    overlap: Float64[np.ndarray, "chunks"]
    scores: Mapping[int, Mapping[str, ChunkScores]]
    parameters: Mapping[str, int]
    neighbours: ChunkNeighbours
    models: Trained


def gather_evidence(config: EvidenceConfig) -> Evidence:
    """Prepare, train and score, each part once.

    Raises:
        FileNotFoundError: If there is no corpus.
        ValueError: If it has no held-out document, or the folder was made with other options.
    """
    with noted_options(config.output, _asked(config)):
        store = prepared(config)
    configs = model_configs(store.manifest.tokenizer.vocab_size)
    build_once(config, store)
    models = train_all(config, store)
    documents = select_documents(store, max_bytes=config.heldout_bytes)
    chunks = Chunks(documents, CHUNK_SIZE)
    neighbours = neighbours_of(config, store, "heldout")
    others, own = OthersNeighbours(neighbours, chunks), OwnTextNeighbours(neighbours)
    conditions: dict[str, FindsNeighbours | None] = {OFF: None, ON: neighbours, SHUFFLED: others, OWN: own}
    conditions |= {FIT_OFF: None, FIT_ON: neighbours, FIT_SHUFFLED: others, FIT_OWN: own}
    conditions |= _part_of_the_text(config, store, chunks)
    scores = {seed: _scores(config, models, seed, chunks, conditions) for seed in config.seeds}
    return Evidence(
        chunks=chunks,
        overlap=overlaps(chunks.tokens(), neighbours.database),
        scores=scores,
        parameters={kind: num_parameters(configs[kind]) for kind in KINDS},
        neighbours=neighbours,
        models=models,
    )


def _asked(config: EvidenceConfig) -> dict[str, Any]:
    """What may not differ when a folder is used again."""
    free = ("output", "seeds", "heldout_bytes", "side_by_side")
    corpus = None if config.corpus is None else real_path(config.corpus)
    return {name: value for name, value in asdict(config).items() if name not in free} | {"corpus": corpus}


def _part_of_the_text(config: EvidenceConfig, store: TokenStore, chunks: Chunks) -> dict[str, FindsNeighbours | None]:
    """Neighbours in a part of the training documents, found by the lexical and by the dense encoder."""
    if config.dense_model is None:
        return {}
    every = round(1 / config.dense_share)
    made: dict[str, FindsNeighbours | None] = {}
    for name, label in (("lexical", LEXICAL_PART), ("dense", DENSE_PART)):
        database = Datastore.build(
            _some_documents(store, every),
            config.output / f"part-{name}",
            tokenizer=store.tokenizer,
            chunk_size=chunks.chunk_size,
            encoder=make_encoder(name, None if name == "lexical" else config.dense_model),
        )
        made[label] = FoundNeighbours(database, chunks)
    return made


def _some_documents(store: TokenStore, every: int) -> Iterator[tuple[str, str]]:
    tokens, offsets = store.tokens("train"), store.document_offsets("train")
    for number, name in enumerate(store.document_names("train")):
        if number % every == 0:
            yield name, store.tokenizer.decode(tokens[offsets[number] : offsets[number + 1] - 1].tolist())


def _scores(
    config: EvidenceConfig,
    models: Trained,
    seed: int,
    chunks: Chunks,
    conditions: Mapping[str, FindsNeighbours | None],
) -> dict[str, ChunkScores]:
    """The loss of every chunk under every condition, measured once and kept on disk."""
    found: dict[str, ChunkScores] = {}
    for label, finder in {TRANSFORMER: None, TRANSFORMER_LONGER: None, **conditions}.items():
        folder = models[MODEL_OF.get(label, RETRO), seed]
        facts = {"model": str(folder), "bytes": config.heldout_bytes}

        def measure(folder: Path = folder, finder: FindsNeighbours | None = finder, label: str = label) -> ChunkScores:
            with ProgressBar(f"seed {seed}, {label}", total=chunks.documents.num_scored, unit="tokens") as progress:
                return score_chunks(
                    load_model(folder), chunks, finder, window=WINDOW, stride=STRIDE, on_tokens=progress.advance
                )

        found[label] = measured_once(config.output / f"scores-{seed}", label, facts, measure).scores
    return found
