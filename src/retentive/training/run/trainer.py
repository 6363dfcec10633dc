"""The training command: from a token store to a saved model, in one process or many."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from retentive.checkpoints.frozen import frozen_parts
from retentive.checkpoints.model_card import TrainingData, save_model_card
from retentive.checkpoints.weights import save_model
from retentive.config_types import check_kind, check_processes
from retentive.data.token_store import TokenStore
from retentive.errors import DivergedError, MismatchError
from retentive.files import folder_with_content, only_writer
from retentive.files.paths import real_path
from retentive.files.progress import ProgressBar
from retentive.files.targets import check_folder_target
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import build
from retentive.training.metrics.log import MetricsLog
from retentive.training.metrics.meter import TrainingMeter
from retentive.training.metrics.report import TrainReport
from retentive.training.objectives.protocol import Objective, Vocabulary
from retentive.training.processes.processes import Processes, alone, joined_processes
from retentive.training.processes.text_parts import check_learns_in_parts
from retentive.training.run.checkpoint_folder import (
    Progress,
    check_whole,
    checkpoint_name,
    newest_checkpoint,
    read_progress,
    remove_old,
    write_checkpoint,
)
from retentive.training.run.config import TrainConfig
from retentive.training.run.copying import Copying, falling_from
from retentive.training.run.first_model import (
    check_first_model,
    first_model,
    first_model_to_shard,
    last_model,
    say_if_unknown,
)
from retentive.training.run.held_out import HeldOutLoss, HeldOutWindows, byte_lengths, num_bytes
from retentive.training.run.precision import with_precision
from retentive.training.run.run_folder import (
    CHECKPOINTS_FOLDER,
    METRICS_FILE,
    MODEL_FOLDER,
    TENSORBOARD_FOLDER,
    check_run_folder,
    describe_run,
    settle_config,
    with_kept_decay,
)
from retentive.training.run.run_state import restore_run, run_tensors
from retentive.training.run.sources import StepBatches, make_neighbours, table_keys, training_batches
from retentive.training.run.stopping import StopRequest, stop_on_signal
from retentive.training.step.compiling import compile_in_place
from retentive.training.step.flops import matrix_flops_per_second, training_flops_per_token
from retentive.training.step.learner import Learner, StepResult


def train(model: FamilyConfig, config: TrainConfig) -> TrainReport:
    """Train a model on a token store, going on from the last checkpoint of the run's folder if there is one.

    Started by ``torchrun``, all its processes train together.

    Args:
        model: Config of the model; its ``vocab_size`` is at least that of the store's tokenizer.
        config: How it is trained.

    Raises:
        ValueError: If an option does not fit the others, the model or the text, or ``run`` cannot be written; the
            message names it.
        MismatchError: If the model does not fit the tokens, or the folder holds a run of another configuration.
        DamagedFileError: If the store or the last checkpoint is damaged.
        DivergedError: If the loss or a gradient is not finite; the last checkpoint is kept.
        OSError: If a checkpoint cannot be written, as on a full disk; earlier ones are kept. If another process
            trains in the folder.
    """
    check_kind("model", model, FamilyConfig, cure="give a family's config, such as RetNetConfig(**values)")
    check_kind("config", config, TrainConfig)
    with joined_processes(config.hardware.device, config.hardware.sequence_parallel) as processes:
        return _train(model, config, processes)


def _train(model: FamilyConfig, config: TrainConfig, processes: Processes) -> TrainReport:
    begin = time.perf_counter()
    with ExitStack() as stack:
        store = TokenStore.open(config.store)
        _check_fit(model, config, store, processes)
        objective = _objective(model, config, store, processes)
        processes.first_does(store.verify)
        make_neighbours(model, config, store, processes)
        keys = table_keys(model, config, store)
        processes.first_does(lambda: stack.enter_context(folder_with_content(config.run)))
        config = with_precision(with_kept_decay(config, processes), model, processes)
        described = describe_run(model, config, store, neighbours=keys)
        processes.first_does(lambda: stack.enter_context(only_writer(config.run)))
        processes.first_does(lambda: settle_config(described, config.run))
        run = _Run(model, config, store, processes, objective)
        stack.callback(run.close)
        with stop_on_signal() as stop:
            stopped = run.train(stop)
        folder = None if stopped else run.export()
        return run.report(stopped=stopped, model=folder, seconds=time.perf_counter() - begin)


def _check_fit(model: FamilyConfig, config: TrainConfig, store: TokenStore, processes: Processes) -> None:
    """Validate that model, options, text and processes fit one another."""
    vocab_size, tokenizer = model.decoder.embedding.vocab_size, store.manifest.tokenizer
    if vocab_size < tokenizer.vocab_size:
        raise MismatchError(
            f"model.vocab_size must be at least that of the tokenizer {tokenizer.name!r} in {store.folder}, "
            f"{tokenizer.vocab_size}, but is {vocab_size}."
        )
    check_first_model(model, config, store)
    first = config.init if config.retrofit is None else config.retrofit
    if first is not None and processes.is_first:
        say_if_unknown(first, store)
    tokens = store.manifest.splits["train"].tokens
    if config.data.window > tokens:
        raise ValueError(
            f"data.window must be at most the {tokens:,} tokens that {store.folder} has to train on, but is "
            f"{config.data.window:,}; a window is what one row of a batch reads."
        )
    if real_path(config.run) == real_path(store.folder):
        raise ValueError(f"run must be another folder than store, but both are {config.run}.")
    for folder in (config.run, config.run / CHECKPOINTS_FOLDER, config.run / MODEL_FOLDER):
        check_folder_target("run", folder)
    check_run_folder(config.run)
    check_processes("hardware.workers", config.hardware.workers)
    shares = processes.row_count * config.hardware.accumulation
    if config.data.batch_size % shares:
        each = f" over hardware.sequence_parallel ({processes.parts_of_text})" if processes.parts_of_text > 1 else ""
        raise ValueError(
            f"data.batch_size must be a multiple of {shares}, the processes ({processes.count}){each} times "
            f"hardware.accumulation ({config.hardware.accumulation}), but is {config.data.batch_size}."
        )


def _objective(model: FamilyConfig, config: TrainConfig, store: TokenStore, processes: Processes) -> Objective:
    """Make the run's objective and validate that it can train the model."""
    tokenizer = store.manifest.tokenizer
    vocabulary = Vocabulary(
        size=tokenizer.vocab_size, end_of_text=tokenizer.end_of_text, fingerprint=tokenizer.fingerprint
    )
    objective = config.objective.build(vocabulary, processes.device)
    with torch.device("meta"):
        bare = build(model)
    objective.check(bare, carries_state=config.data.mode == "streamed")
    if processes.parts_of_text > 1:
        check_learns_in_parts(bare, objective)
    return objective


class _Run:
    """A run, from its newest checkpoint to its last step."""

    def __init__(
        self,
        model: FamilyConfig,
        config: TrainConfig,
        store: TokenStore,
        processes: Processes,
        objective: Objective,
    ) -> None:
        self.objective = objective
        self.model, self.config, self.store, self.processes = model, config, store, processes
        self.parts = config.hardware.accumulation
        self.is_sharded = processes.count > 1 and config.hardware.strategy == "fsdp"
        self.checkpoints = config.run / CHECKPOINTS_FOLDER
        self.batches = StepBatches(
            training_batches(model, config, store),
            depth=config.data.windows_per_graph,
            processes=processes,
            parts=self.parts,
            workers=config.hardware.workers,
        )
        self.held_out = None if config.held_out.every is None else HeldOutWindows(model, store, config, self.parts)
        self.copying = Copying(model, store, config, self.parts) if model.chunked_reading is not None else None
        self.byte_lengths = byte_lengths(store)
        self.learner, self.meter = self._begin()
        self.progress = self._restore()
        self.resumed_at = self.progress.step or None
        self.saved_step = self.resumed_at
        self.last_loss: float | None = None
        self.last_evaluation: HeldOutLoss | None = None
        self.log = self._open_log() if processes.is_first else None

    def train(self, stop: StopRequest) -> bool:
        """Take the remaining steps. Return whether a signal asked to stop before the last."""
        config, progress = self.config, self.progress
        with ProgressBar(
            "train", done=progress.step, total=config.steps, unit="steps", shown=self.processes.is_first
        ) as bar:
            while self.progress.step < config.steps:
                result, asked = self._step(stop)
                bar.advance(1, f"loss {result.loss:.3f}, {self.meter.tokens_per_second:,.0f} tokens/s")
                done = self.progress.step
                if done % config.metrics.every == 0 or done == config.steps:
                    self._write_metrics()
                self._let_own_text_go(bar)
                improved = self._is_due(config.held_out.every) and self._evaluate(bar)
                keeps = improved and config.checkpoints.keep_best
                if keeps or asked or self._is_due(config.checkpoints.every):
                    self._save()
                if asked and done < config.steps:
                    return True
        return False

    def export(self) -> Path:
        """Write the last or the best weights as a saved model, and return its folder."""
        best = self.config.checkpoints.weights == "best" and self.progress.best_step is not None
        step = self.progress.best_step if best else self.progress.step
        assert step is not None
        folder, checkpoint = self.config.run / MODEL_FOLDER, self.checkpoints / checkpoint_name(step)

        def write() -> None:
            check_whole(checkpoint, alone())
            frozen = frozen_parts(cast("torch.nn.Module", self.learner.model))
            made, weights = last_model(self.model, self.config, checkpoint, frozen, whole=not self.is_sharded)
            save_model(made, folder, self.store.tokenizer, weights=weights)
            save_model_card(folder, self._data(step))

        self.processes.first_does(write)
        return folder

    def _data(self, step: int) -> TrainingData:
        """Describe the training data for the model card."""
        split = self.store.manifest.splits["train"]
        return TrainingData(
            source=self.store.folder.name,
            documents=split.documents,
            tokens=split.tokens,
            text_bytes=split.text_bytes,
            steps=step,
            tokens_read=step * self.config.data.tokens_per_step,
        )

    def report(self, *, stopped: bool, model: Path | None, seconds: float) -> TrainReport:
        """Summarise the run."""
        return TrainReport(
            run=self.config.run,
            steps=self.progress.step,
            resumed_at=self.resumed_at,
            stopped=stopped,
            loss=self.last_loss,
            held_out=self.last_evaluation,
            best_step=self.progress.best_step,
            best_loss=self.progress.best_loss,
            model=model,
            seconds=seconds,
            training_seconds=self.progress.seconds,
            parameters=sum(parameter.numel() for parameter in self.learner.model.parameters()),
            learning=sum(p.numel() for p in self.learner.model.parameters() if p.requires_grad),
            predicts_next_token=self.learner.model.predicts_next_token,
            rank=self.processes.rank,
            lora_rank=self.config.lora_rank,
        )

    def close(self) -> None:
        """Close the metrics log."""
        if self.log is not None:
            self.log.close()

    def _begin(self) -> tuple[Learner, TrainingMeter]:
        """Make the learner with the weights of step 0, and the meter of its speed."""
        config, device = self.config, self.processes.device
        weights = None
        with torch.random.fork_rng([]):
            torch.manual_seed(config.seed)
            if self.is_sharded:  # no process holds the whole model, which may not fit
                model, weights = first_model_to_shard(self.model, config)
            else:
                model = first_model(self.model, config).to(device)
        with torch.device("meta"):
            flops = training_flops_per_token(build(self.model), config.data.window)
        precision = config.hardware.precision
        assert precision != "auto"  # settled before the run's folder was written
        speed = matrix_flops_per_second(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
        meter = TrainingMeter(flops, self.processes.sum([speed])[0])
        learner = Learner(
            model,
            optimizer=config.optimizer,
            schedule=config.schedule,
            decay_steps=config.decay_steps,
            seed=config.seed,
            carries_state=config.data.mode == "streamed",
            processes=self.processes,
            objective=self.objective,
            strategy=config.hardware.strategy,
            precision=precision,
            backpropagation=config.hardware.backpropagation,
            weights=weights,
        )
        if config.hardware.compile:
            compile_in_place(learner.model)
        return learner, meter

    def _restore(self) -> Progress:
        """Load the newest checkpoint; without one the run stands at step 0."""
        newest = newest_checkpoint(self.checkpoints, self.processes)
        if newest is None:
            return Progress(step=0)
        restore_run(self.learner, newest, parts=self.parts)
        progress = read_progress(newest)
        self.meter.go_on_from(progress.pace)
        if progress.own_text_released is not None:
            self.batches.change_source(falling_from(self.batches.source, progress.own_text_released))
        return progress

    def _open_log(self) -> MetricsLog:
        folder = self.config.run
        tensorboard = folder / TENSORBOARD_FOLDER if self.config.metrics.tensorboard else None
        return MetricsLog(folder / METRICS_FILE, after_step=self.progress.step, tensorboard=tensorboard)

    def _step(self, stop: StopRequest) -> tuple[StepResult, bool]:
        """Take one step. Return its measurements, and whether a signal reached any process."""
        begin = time.perf_counter()
        parts = self.batches.of_step(self.progress.step, self.config.steps)
        waited = time.perf_counter() - begin
        try:
            result = self.learner.step(self.progress.step, parts)
        except DivergedError as error:
            raise self._with_cure(error) from error
        text_bytes = 0
        if self.byte_lengths is not None and self.objective.is_likelihood:
            text_bytes = sum(num_bytes(batch.labels, self.byte_lengths) for part in parts for batch in part)
        all_bytes, asked, waited = self.processes.sum([text_bytes, stop.made, waited])
        tokens, seconds = self.config.data.tokens_per_step, time.perf_counter() - begin
        waiting = waited / self.processes.count
        self.meter.add(result, tokens=tokens, text_bytes=all_bytes, seconds=seconds, waiting=waiting)
        done = self.progress
        self.progress = replace(done, step=done.step + 1, seconds=done.seconds + seconds)
        return result, asked > 0

    def _is_due(self, every: int | None) -> bool:
        """Whether an action of every ``every`` steps, and of the last step, is due."""
        step = self.progress.step
        return every is not None and (step % every == 0 or step == self.config.steps)

    def _write_metrics(self) -> None:
        numbers = self.meter.numbers()
        self.meter.clear()
        self.last_loss = numbers["loss"]
        if self.log is not None:
            self.log.write(self.progress.step, "train", **numbers)

    def _let_own_text_go(self, bar: ProgressBar) -> None:
        """Let the share of samples that read their own text fall, once it is copied."""
        step = self.progress.step
        if self.copying is None or self.progress.own_text_released is not None:
            return
        if (found := self.copying.after(step, self.learner)) is None:
            return
        self.progress = replace(self.progress, own_text_released=step)
        self.batches.change_source(falling_from(self.batches.source, step))
        bar.say(f"step {step:,}: {found}")

    def _evaluate(self, bar: ProgressBar) -> bool:
        """Measure the held-out loss. Return whether it is the lowest so far."""
        assert self.held_out is not None
        found = self.last_evaluation = self.held_out.evaluate(self.learner)
        improved = self.progress.best_loss is None or found.loss < self.progress.best_loss
        if improved:
            self.progress = replace(self.progress, best_step=self.progress.step, best_loss=found.loss)
        controls = None if self.copying is None else self.copying.controls(self.learner)
        if self.log is not None:
            numbers = {"loss": found.loss, "bits_per_byte": found.bits_per_byte}
            numbers |= {} if controls is None else controls.numbers()
            self.log.write(self.progress.step, "held_out", **numbers)
        bits = "" if found.bits_per_byte is None else f", {found.bits_per_byte:.4f} bits per byte"
        best = ", the best so far" if improved else ""
        bar.say(f"step {self.progress.step:,}: held-out loss {found.loss:.4f}{bits}{best}")
        if controls is not None:
            bar.say(controls.line())
        return improved

    def _save(self) -> None:
        """Write a checkpoint, then remove old ones."""
        if self.saved_step == self.progress.step:
            return
        progress = replace(self.progress, pace=self.meter.sums())
        write_checkpoint(self.checkpoints, run_tensors(self.learner), progress, self.processes)
        self.saved_step = self.progress.step
        best = self.progress.best_step if self.config.checkpoints.keep_best else None
        keep = self.config.checkpoints.keep_last
        self.processes.first_does(lambda: remove_old(self.checkpoints, keep_last=keep, best_step=best))

    def _with_cure(self, error: DivergedError) -> DivergedError:
        kept = "There was no checkpoint yet."
        if self.saved_step is not None:
            kept = f"The last good checkpoint is kept: {self.checkpoints / checkpoint_name(self.saved_step)}."
        cure = "a lower optimizer.learning_rate, a longer schedule.warmup_steps or a lower optimizer.clip_norm"
        return DivergedError(f"{error} {kept} Try {cure}, in another run folder.")
