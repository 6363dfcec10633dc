"""Do neighbours help? RETRO on and off, with wrong neighbours, and a Transformer of the same size, on held-out text."""

import json
import os
import signal
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from retentive.checkpoints.weights import load_model
from retentive.config_types import check_counts, check_types
from retentive.data.manifest import SPLITS
from retentive.data.neighbour_stores import FOLDER, ChunkNeighbours, build_neighbours
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.retrieval_batches import FindsNeighbours
from retentive.data.token_store import TokenStore
from retentive.errors import DamagedFileError
from retentive.evaluation.measures.chunk_scores import (
    Chunks,
    ChunkScores,
    FoundNeighbours,
    OthersNeighbours,
    score_chunks,
)
from retentive.evaluation.measures.documents import select_documents
from retentive.evaluation.measures.overlap import overlaps
from retentive.files import read_json, write_atomically
from retentive.files.progress import ProgressBar
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import build
from retentive.models.retro import RetroConfig
from retentive.models.transformer import TransformerConfig
from retentive.retrieval import Datastore, make_encoder
from retentive.training.run.config import (
    CheckpointConfig,
    DataConfig,
    HeldOutConfig,
    NeighbourDataConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from retentive.training.run.trainer import train

TRANSFORMER, OFF, ON, SHUFFLED = "Transformer", "RETRO[OFF]", "RETRO[ON]", "RETRO[ON], others' neighbours"
LEXICAL_PART, DENSE_PART = "RETRO[ON], words, part of the text", "RETRO[ON], dense, part of the text"
MODELS = ("transformer", "retro")
WINDOW, STRIDE = 512, 384


# No slots here: the command line's parser reads defaults through a config's ``__dict__``.
@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """Train small RETROs and Transformers of the same size on a corpus, and compare them on held-out documents.

    Args:
        corpus: Folder of text, or a tar archive of one.
        pattern: Which of its files, as in "retentive prepare".
        output: Folder for everything that the command makes. Started again with the same options, it goes on from
            there; only "seeds", "heldout_bytes" and "side_by_side" may differ.
        seeds: One model of each kind is trained for each.
        steps: Training steps of each model, of 2,048 tokens.
        own_text_steps: During this many first steps, a falling share of samples has its own text among the neighbours;
            see `NeighbourDataConfig`.
        heldout_bytes: Bytes of held-out text at most, in whole documents.
        dense_model: Folder or hub id of a dense encoder, to compare with the lexical one; null compares none.
        dense_share: Share of the training documents that this comparison searches.
        side_by_side: Models that are trained at the same time, each on one thread.
    """

    corpus: Path
    pattern: str = "**/*"
    output: Path = Path("runs/retro_evidence")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1000
    own_text_steps: int = 300
    heldout_bytes: int = 250_000
    dense_model: str | None = None
    dense_share: float = 0.25
    side_by_side: int = 2

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be at least one, each another, but are {list(self.seeds)}.")
        check_counts(self, "steps", "heldout_bytes", "side_by_side")
        if not 0 <= self.own_text_steps <= self.steps:
            raise ValueError(f"own_text_steps must be from 0 to steps = {self.steps}, but is {self.own_text_steps}.")
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
    models: Mapping[tuple[str, int], Path]


def model_configs(vocab_size: int) -> dict[str, FamilyConfig]:
    """Configs of a RETRO, and of a Transformer with as many weights, in wider feed-forwards."""
    base = TransformerConfig(vocab_size=vocab_size, hidden_size=128, num_layers=3, num_heads=2, tie_embeddings=True)
    retro = RetroConfig(
        base=base,
        chunk_size=64,
        cross_layers=(2, 3),
        encoder_hidden_size=128,
        encoder_num_layers=1,
        encoder_num_heads=2,
        share_embeddings=True,
        chunk_offset=1,
    )
    more = num_parameters(retro) - num_parameters(base)
    wider = base.decoder.feed_forward.intermediate_size + round(more / (2 * base.num_layers * base.hidden_size))
    return {"transformer": replace(base, intermediate_size=wider), "retro": retro}


def num_parameters(config: FamilyConfig) -> int:
    """Weights of the model that a config describes."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def gather_evidence(config: EvidenceConfig) -> Evidence:
    """Prepare, train and score, each part once.

    Raises:
        FileNotFoundError: If there is no corpus.
        ValueError: If it has no held-out document, or the folder was made with other options.
    """
    _check_folder(config)
    store = _prepared(config)
    configs = model_configs(store.manifest.tokenizer.vocab_size)
    folder = store.folder / FOLDER
    _build_once(store, folder)
    models = _trained(config, configs, store)
    documents = select_documents(store, max_bytes=config.heldout_bytes)
    chunks = Chunks(documents, _chunk_size(configs))
    neighbours = ChunkNeighbours(store, "heldout", folder, chunk_size=chunks.chunk_size)
    conditions: dict[str, FindsNeighbours | None] = {OFF: None, ON: neighbours}
    conditions[SHUFFLED] = OthersNeighbours(neighbours, chunks)
    conditions |= _part_of_the_text(config, store, chunks)
    scores = {seed: _scores(config, models, seed, chunks, conditions) for seed in config.seeds}
    return Evidence(
        chunks=chunks,
        overlap=overlaps(chunks.tokens(), neighbours.database),
        scores=scores,
        parameters={kind: num_parameters(configs[kind]) for kind in MODELS},
        neighbours=neighbours,
        models=models,
    )


def _check_folder(config: EvidenceConfig) -> None:
    """Check that the folder was made with these options, as its models and scores are used again."""
    path = config.output / "options.json"
    asked: dict[str, Any] = {
        "corpus": str(config.corpus.resolve()),
        "pattern": config.pattern,
        "steps": config.steps,
        "own_text_steps": config.own_text_steps,
        "dense_model": config.dense_model,
        "dense_share": config.dense_share,
    }
    made = read_json(path, cure="give another output, or remove the folder") if path.exists() else asked
    for name, value in asked.items():
        if made[name] != value:
            raise ValueError(
                f"{name} must be {made[name]!r}, with which {config.output} was made, but is {value!r}; give another "
                "output, or remove the folder."
            )
    config.output.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asked, indent=1).encode())


def _prepared(config: EvidenceConfig) -> TokenStore:
    folder = config.output / "store"
    try:
        return TokenStore.open(folder)
    except (FileNotFoundError, DamagedFileError):
        pass
    source = config.corpus
    if source.is_file() and tarfile.is_tarfile(source):
        source = config.output / "corpus"
        with tarfile.open(config.corpus) as archive:
            archive.extractall(source, filter="data")
    # Bytes: with so few token ids, a small model sees each often enough to learn to copy it.
    prepare(PrepareConfig(source=source, output=folder, pattern=config.pattern, heldout_fraction=0.1))
    return TokenStore.open(folder)


def _chunk_size(configs: Mapping[str, FamilyConfig]) -> int:
    chunks = configs["retro"].chunked_reading
    assert chunks is not None
    return chunks.chunk_size


def _build_once(store: TokenStore, folder: Path) -> None:
    chunk_size = _chunk_size(model_configs(store.manifest.tokenizer.vocab_size))
    try:
        for split in SPLITS:
            ChunkNeighbours(store, split, folder, chunk_size=chunk_size)
    except FileNotFoundError:
        build_neighbours(store, folder, chunk_size=chunk_size)


def _trained(
    config: EvidenceConfig, configs: Mapping[str, FamilyConfig], store: TokenStore
) -> dict[tuple[str, int], Path]:
    """Train every model that is not trained yet; its folder by kind and seed."""
    wanted = [(kind, seed) for seed in config.seeds for kind in MODELS]
    jobs = [(configs[kind], _train_config(config, kind, seed, store)) for kind, seed in wanted]
    # One process with one thread for each model: small models gain nothing from a second thread.
    with ProcessPoolExecutor(config.side_by_side, get_context("spawn"), _watch_parent) as pool:
        folders = list(pool.map(_train, *zip(*jobs, strict=True)))
    return dict(zip(wanted, folders, strict=True))


def _train_config(config: EvidenceConfig, kind: str, seed: int, store: TokenStore) -> TrainConfig:
    neighbours = NeighbourDataConfig(share_without=0.1, own_text_steps=config.own_text_steps)
    return TrainConfig(
        store=store.folder,
        run=config.output / f"{kind}-{seed}",
        steps=config.steps,
        seed=seed,
        data=DataConfig(window=WINDOW, batch_size=4),
        neighbours=neighbours if kind == "retro" else NeighbourDataConfig(),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        schedule=ScheduleConfig(warmup_steps=min(40, config.steps - 1)),
        held_out=HeldOutConfig(every=None),
        checkpoints=CheckpointConfig(every=100, keep_last=1, keep_best=False),
    )


_STOPPED = threading.Event()


def _train(model: FamilyConfig, config: TrainConfig) -> Path:
    if _STOPPED.is_set():  # this job was still waiting when another was stopped
        raise KeyboardInterrupt
    torch.set_num_threads(1)
    report = train(model, config)
    if report.model is None:
        _STOPPED.set()
        raise KeyboardInterrupt
    return report.model


def _watch_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Stop when the parent process has ended, even by SIGKILL; otherwise training would go on for hours.

    As on Ctrl-C, training finishes its step and keeps a checkpoint.
    """
    parent = parent_process()
    if parent is None:
        return
    parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)  # a second signal ends a process that is not in training
        time.sleep(1)


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
    models: Mapping[tuple[str, int], Path],
    seed: int,
    chunks: Chunks,
    conditions: Mapping[str, FindsNeighbours | None],
) -> dict[str, ChunkScores]:
    """The loss of every chunk under every condition, measured once and kept on disk."""
    found: dict[str, ChunkScores] = {}
    for label, finder in {TRANSFORMER: None, **conditions}.items():
        kind = "transformer" if label == TRANSFORMER else "retro"
        facts = {"model": str(models[kind, seed]), "label": label, "bytes": config.heldout_bytes}
        path = config.output / f"scores-{seed}" / f"{_file_name(label)}.json"
        kept = _kept(path, facts)
        if kept is None:
            with ProgressBar(f"seed {seed}, {label}", total=chunks.documents.num_scored, unit="tokens") as progress:
                kept = score_chunks(
                    load_model(models[kind, seed]),
                    chunks,
                    finder,
                    window=WINDOW,
                    stride=STRIDE,
                    on_tokens=progress.advance,
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"facts": facts, "nats": kept.nats.tolist(), "num_bytes": kept.num_bytes.tolist()}
            write_atomically(path, json.dumps(content).encode())
        found[label] = kept
    return found


def _kept(path: Path, facts: Mapping[str, Any]) -> ChunkScores | None:
    if not path.exists():
        return None
    content = read_json(path, cure="delete it: the chunks are then scored again")
    if content["facts"] != facts:
        return None
    return ChunkScores(
        nats=np.array(content["nats"], dtype=np.float64), num_bytes=np.array(content["num_bytes"], dtype=np.int64)
    )


def _file_name(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower())
