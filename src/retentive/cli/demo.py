"""``retentive demo``: the main job from a folder of text to a report, on a laptop in ten minutes."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints import load_model, save_state
from retentive.cli.options import add_config, read_config
from retentive.data.neighbour_stores import FOLDER, ChunkNeighbours
from retentive.data.prepare import PrepareConfig, prepare, python_library, with_both_splits
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.evaluation.measures.documents import select_documents
from retentive.evaluation.measures.speed import SpeedReport, measure_speed
from retentive.evaluation.model_evaluation import evaluate_model
from retentive.evaluation.report.files import write_report
from retentive.experiments.demo.report import DemoRun, Evaluations, Measurements, Sample, make_report
from retentive.files import write_atomically
from retentive.files.progress import Progress
from retentive.generation import Sampling, stream
from retentive.generation.text_stream import TextStream
from retentive.models.base import FamilyConfig, LanguageModel
from retentive.models.registry import config_class
from retentive.models.retro import Retro, retro_over
from retentive.training.run.config import (
    CheckpointConfig,
    DataConfig,
    HeldOutConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from retentive.training.run.step_time import seconds_per_step
from retentive.training.run.trainer import train

NOTES = "demo.json"
"""File that says which folders beside it a demo made, and how many steps its models are trained for."""

SIZES = {"hidden_size": 128, "num_layers": 4, "num_heads": 2}
"""Of every model in the demo, so that they have as many parameters."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A model of the demo: its family in the registry, the name that readers see, and its config by vocabulary size."""

    family: str
    name: str
    config: Callable[[int], FamilyConfig]


CONTENDERS = (
    Contender("retnet", "RetNet", lambda size: config_class("retnet")(vocab_size=size, **SIZES)),
    Contender("transformer", "Transformer", lambda size: config_class("transformer")(vocab_size=size, **SIZES)),
    Contender("rmt", "RMT", lambda size: _recurrent_memory(size)),
    Contender("retro", "RETRO", lambda size: _with_neighbours(size)),
)
"""Who is trained, measured and reported, in this order; the first one writes the sample."""

DATA = DataConfig(window=512, batch_size=8)
EVALUATED_BYTES = 150_000
LONGEST_DOCUMENT = 40_000
"""In bytes: one pass of a Transformer takes time that grows as the square of a document."""

SAMPLE_TOKENS, RESUMED_TOKENS = 300, 100
SAMPLING = Sampling(temperature=0.7, top_p=0.95, seed=1)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Take a folder of text: prepare, train models with decoders of equal size, evaluate, stream, go on, and report.

    Args:
        corpus: Folder of text, or one file; without it, the sources of Python's standard library on this machine.
        output: Folder of everything that is made. Started again with the same corpus, the demo goes on from there;
            with another one, or for another time, it makes anew what it made before.
        minutes: Time for training and measuring; the number of training steps is chosen to fit, by timing a few.
        vocab_size: Token ids that the tokenizer learns from the corpus.
    """

    corpus: Path | None = None
    output: Path = Path("runs/demo")
    minutes: float = 6.5
    vocab_size: int = 2048

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, but is {self.minutes}.")


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `DemoConfig`."""
    add_config(parser, DemoConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Run the demo and say what was made, where, and what to try next."""
    config = read_config(parser, options, DemoConfig)
    begin = time.perf_counter()
    store = _prepare(config)
    runs = {contender.name: _train(contender, config, store) for contender in CONTENDERS}
    models = {name: load_model(run.model) for name, run in runs.items()}
    evaluations, speed = _measure(models, store, config)
    first = CONTENDERS[0].name
    sample = _stream(models[first], runs[first].model, store, config)
    measured = Measurements(
        evaluations=evaluations,
        speed=speed,
        models=models,
        runs=runs,
        store=store,
        sample=sample,
        seconds=time.perf_counter() - begin,
    )
    page = write_report(make_report(measured), config.output)
    _say_what_next(config, page, runs[first].model, time.perf_counter() - begin)


def _prepare(config: DemoConfig) -> TokenStore:
    _headline(1, "prepare: text becomes tokens on disk")
    folder = config.output / "store"
    text = python_library(folder) if config.corpus is None else PrepareConfig(source=config.corpus, output=folder)
    asked = with_both_splits(replace(text, tokenizer="bpe", vocab_size=config.vocab_size))
    if asked.separator is not None:
        print(f"  {asked.source} is one document: it is cut into many at {asked.separator!r}, so that some is held out")
    _claim(config, folder)
    try:
        report = prepare(asked)
    except FileExistsError:
        if not _remove_own(config, folder, "holds another text"):
            raise
        report = prepare(asked)
    print("\n".join(report.lines()))
    store = TokenStore.open(folder)
    if (tokens := store.manifest.splits["train"].tokens) < DATA.window:
        raise ValueError(
            f"corpus must have at least {DATA.window} tokens to train on, but has {tokens}: give more text."
        )
    return store


def _notes(config: DemoConfig) -> dict[str, Any]:
    path = config.output / NOTES
    return json.loads(path.read_bytes()) if path.exists() else {"made": []}


def _claim(config: DemoConfig, folder: Path) -> None:
    """Note that a folder is the demo's own, unless it is there already."""
    notes = _notes(config)
    if not folder.exists() and folder.name not in notes["made"]:
        config.output.mkdir(parents=True, exist_ok=True)
        write_atomically(config.output / NOTES, json.dumps({**notes, "made": [*notes["made"], folder.name]}).encode())


def _remove_own(config: DemoConfig, folder: Path, why: str) -> bool:
    """Remove what an earlier demo made there; False where it is not a demo's."""
    if folder.name not in _notes(config)["made"]:
        return False
    print(f"  {folder} {why}: it is made anew")
    shutil.rmtree(folder)
    return True


def _train(contender: Contender, config: DemoConfig, store: TokenStore) -> DemoRun:
    _headline(2 + CONTENDERS.index(contender), f"train: {contender.name}")
    model = contender.config(store.manifest.tokenizer.vocab_size)
    steps = _steps(config, store)
    options = TrainConfig(
        store=store.folder,
        run=config.output / contender.family,
        steps=steps,
        data=DATA,
        optimizer=OptimizerConfig(learning_rate=2e-3),
        schedule=ScheduleConfig(warmup_steps=max(1, steps // 10)),
        held_out=HeldOutConfig(every=max(1, -(-steps // 4)), windows=32),
        checkpoints=CheckpointConfig(every=max(1, -(-steps // 4)), keep_last=1),
    )
    _claim(config, options.run)
    try:
        report = train(model, options)
    except MismatchError:
        if not _remove_own(config, options.run, "was trained on another text, or for another time"):
            raise
        report = train(model, options)
    if report.model is None:
        raise KeyboardInterrupt
    print("\n".join(report.lines()))
    metrics = options.run / "metrics.jsonl"
    return DemoRun(model=report.model, metrics=metrics, seconds=report.training_seconds, config=options)


def _recurrent_memory(vocab_size: int) -> FamilyConfig:
    """A Transformer of the same size that sees 128 tokens and carries 8 of memory."""
    backbone = config_class("transformer")(vocab_size=vocab_size, **SIZES)
    return config_class("rmt")(backbone=backbone, segment_length=128, num_memory_tokens=8)


def _with_neighbours(vocab_size: int) -> FamilyConfig:
    """The same Transformer, which also reads the neighbours of each chunk of 64 tokens."""
    base = config_class("transformer")(vocab_size=vocab_size, **SIZES)
    return replace(retro_over(base), encoder_num_layers=1, share_embeddings=True)


def _steps(config: DemoConfig, store: TokenStore) -> int:
    """Steps for each model, so that training them takes about two thirds of the time; found once for a text."""
    notes = _notes(config)
    asked = {"minutes": config.minutes, "tokens_sha256": store.manifest.files["train-tokens"].sha256}
    if all(notes.get(name) == value for name, value in asked.items()):
        return int(notes["steps"])
    vocab_size = store.manifest.tokenizer.vocab_size
    seconds = sum(seconds_per_step(contender.config(vocab_size), DATA) for contender in CONTENDERS)
    steps = max(20, int(config.minutes * 60 * 2 / 3 / seconds))
    print(f"{steps:,} steps for each model: a step of all takes {seconds:.2f} s here")
    found = {"steps": steps, "seconds_per_step": seconds}
    write_atomically(config.output / NOTES, json.dumps({**notes, **asked, **found}).encode())
    return steps


def _measure(
    models: dict[str, LanguageModel], store: TokenStore, config: DemoConfig
) -> tuple[Evaluations, SpeedReport]:
    _headline(2 + len(CONTENDERS), "evaluate: held-out text, loss by position, speed and size of the state")
    documents = select_documents(store, max_bytes=EVALUATED_BYTES, max_document_bytes=LONGEST_DOCUMENT)
    evaluations = {
        name: evaluate_model(model, documents, neighbours=_neighbours(model, store), label=name)
        for name, model in models.items()
    }
    for name, evaluation in evaluations.items():
        ways = ", ".join(f"{way.bits_per_byte:.3f} ({way.method})" for way in evaluation.bits_per_byte)
        print(f"  {name:<12} bits per byte {ways.replace('_', ' ')}")
    budget = config.minutes * 60 / 8
    with Progress("time decoding", total=int(budget), unit="seconds") as progress:
        return evaluations, measure_speed(models, budget_seconds=budget, on_seconds=progress.advance)


def _neighbours(model: LanguageModel, store: TokenStore) -> ChunkNeighbours | None:
    """Those that training has found, for a model that reads them."""
    if not isinstance(model, Retro):
        return None
    return ChunkNeighbours(store, "heldout", store.folder / FOLDER, chunk_size=model.config.chunk_size)


def _stream(model: LanguageModel, folder: Path, store: TokenStore, config: DemoConfig) -> Sample:
    """Write text, save the state half-way, and let a new process go on from it."""
    _headline(3 + len(CONTENDERS), "stream: text as it comes; then its state goes on in a new process")
    tokenizer = store.tokenizer
    prompt = _first_words(store)
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    print(prompt, end="", flush=True)
    tokens = stream(model, ids, max_new_tokens=SAMPLE_TOKENS + RESUMED_TOKENS, sampling=SAMPLING)
    text, written, session = TextStream(tokenizer), "", config.output / "session.safetensors"
    resumed = ""
    for number, (token,) in enumerate(tokens):
        assert token is not None
        piece = text.push(token)
        if number < SAMPLE_TOKENS:
            print(piece, end="", flush=True)
            written += piece
        else:
            resumed += piece
        if number == SAMPLE_TOKENS - 1:
            save_state(tokens.state, session, model)
    found = _go_on(folder, session)
    print(found)
    same = found.strip() == (resumed + text.finish()).strip()
    print(f"  a new process read {session} and wrote {'the same' if same else 'OTHER'} tokens as this one")
    if not same:
        raise RuntimeError(f"the state in {session} did not go on as an uninterrupted run does; please report this.")
    return Sample(prompt=prompt, text=written, resumed=found, session=session)


def _go_on(folder: Path, session: Path) -> str:
    options = {
        "checkpoint": folder,
        "state": session,
        "max_new_tokens": RESUMED_TOKENS,
        "temperature": SAMPLING.temperature,
        "top_p": SAMPLING.top_p,
        "seed": SAMPLING.seed,
        "stop_at_end": "false",
        "device": "cpu",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "retentive.cli.main", "generate", *words]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if run.returncode:
        raise RuntimeError(f"going on in a new process failed: {run.stderr.strip()}")
    return run.stdout.removesuffix("\n")


def _first_words(store: TokenStore) -> str:
    """The first line of a held-out document, for the model to go on from."""
    documents = select_documents(store)
    longest = documents.numbers[int(documents.lengths.argmax())]
    text = store.tokenizer.decode(documents.text(int(longest))[:40].tolist())
    return text[: len(text) // 2]


def _headline(number: int, text: str) -> None:
    print(f"\n[{number}/{3 + len(CONTENDERS)}] {text}", flush=True)


def _say_what_next(config: DemoConfig, page: Path, model: Path, seconds: float) -> None:
    lines: Sequence[str] = (
        f"\nmade in {seconds / 60:.1f} minutes:",
        f"  {page}  the report: open it in a browser",
        f"  {model}  the RetNet; {config.output / 'session.safetensors'}  the state of its text",
        "try next:",
        f"  retentive generate {model} --prompt 'def ' --seed 2",
        f"  retentive generate {model} --state {config.output / 'session.safetensors'}",
        "  make demo CORPUS=path/to/your/text",
    )
    print("\n".join(lines))
