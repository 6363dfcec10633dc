"""The first two steps of the demo: text becomes tokens, and each contender is trained on them."""

from dataclasses import replace

from retentive.data.prepare import PrepareConfig, prepare, python_library, with_both_splits
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.experiments.demo.config import DemoConfig
from retentive.experiments.demo.contenders import CONTENDERS, Contender
from retentive.experiments.demo.own_folders import claim, read_notes, remove_own, write_notes
from retentive.experiments.demo.report import DemoRun
from retentive.training.run.config import (
    CheckpointConfig,
    DataConfig,
    HardwareConfig,
    HeldOutConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from retentive.training.run.step_time import seconds_per_step
from retentive.training.run.trainer import train

DATA = DataConfig(window=512, batch_size=8)


def headline(number: int, text: str) -> None:
    """Print which step of the demo begins."""
    print(f"\n[{number}/{3 + len(CONTENDERS)}] {text}", flush=True)


def prepare_store(config: DemoConfig) -> TokenStore:
    """Make the token store, or open that of an earlier demo on the same text.

    Raises:
        ValueError: If there is too little text.
        FileExistsError: If the folder holds a store that is no demo's.
    """
    headline(1, "prepare: text becomes tokens on disk")
    folder = config.output / "store"
    text = python_library(folder) if config.corpus is None else PrepareConfig(source=config.corpus, output=folder)
    asked = with_both_splits(replace(text, tokenizer="bpe", vocab_size=config.vocab_size))
    if asked.separator is not None:
        print(f"  {asked.source} is one document: it is cut into many at {asked.separator!r}, so that some is held out")
    claim(config.output, folder)
    try:
        report = prepare(asked)
    except FileExistsError:
        if not remove_own(config.output, folder, "holds another text"):
            raise
        report = prepare(asked)
    print("\n".join(report.lines()))
    store = TokenStore.open(folder)
    if (tokens := store.manifest.splits["train"].tokens) < DATA.window:
        raise ValueError(
            f"corpus must have at least {DATA.window} tokens to train on, but has {tokens}: give more text."
        )
    return store


def train_contender(contender: Contender, config: DemoConfig, store: TokenStore) -> DemoRun:
    """Train one model, or go on where an earlier demo on the same text stopped.

    Raises:
        MismatchError: If the folder holds a run that is no demo's.
        KeyboardInterrupt: If training was asked to stop.
    """
    headline(2 + CONTENDERS.index(contender), f"train: {contender.name}")
    model = contender.config(store.manifest.tokenizer.vocab_size)
    steps = _steps(config, store)
    options = TrainConfig(
        store=store.folder,
        run=config.output / contender.family,
        steps=steps,
        data=DATA,
        # From scratch a RETRO learns to copy in a thousand steps or more, which is more than there are here.
        retrofit=None if contender.fitted_to is None else config.output / contender.fitted_to / "model",
        optimizer=OptimizerConfig(learning_rate=2e-3 if contender.fitted_to is None else 1e-3),
        schedule=ScheduleConfig(warmup_steps=max(1, steps // 10)),
        held_out=HeldOutConfig(every=max(1, -(-steps // 4)), windows=32),
        checkpoints=CheckpointConfig(every=max(1, -(-steps // 4)), keep_last=1),
        hardware=HardwareConfig(precision="float32"),  # in which steps were timed
    )
    claim(config.output, options.run)
    try:
        report = train(model, options)
    except MismatchError:
        if not remove_own(config.output, options.run, "was trained on another text, or for another time"):
            raise
        report = train(model, options)
    if report.model is None:
        raise KeyboardInterrupt
    print("\n".join(report.lines()))
    metrics = options.run / "metrics.jsonl"
    return DemoRun(model=report.model, metrics=metrics, seconds=report.training_seconds, config=options)


def _steps(config: DemoConfig, store: TokenStore) -> int:
    """Steps for each model, so that training them takes about two thirds of the time; found once for a text."""
    notes = read_notes(config.output)
    asked = {"minutes": config.minutes, "tokens_sha256": store.manifest.files["train-tokens"].sha256}
    if all(notes.get(name) == value for name, value in asked.items()):
        return int(notes["steps"])
    vocab_size = store.manifest.tokenizer.vocab_size
    seconds = sum(seconds_per_step(contender.config(vocab_size), DATA) for contender in CONTENDERS)
    steps = max(20, int(config.minutes * 60 * 2 / 3 / seconds))
    print(f"{steps:,} steps for each model: a step of all takes {seconds:.2f} s here")
    found = {"steps": steps, "seconds_per_step": seconds}
    write_notes(config.output, {**notes, **asked, **found})
    return steps
