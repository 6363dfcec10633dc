"""A curriculum of text lengths: first texts of one segment, then of two, then of more (arXiv:2304.11062)."""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from retentive.config_types import check_count, check_kind, check_types
from retentive.data.batch import Batch
from retentive.models.protocol import LanguageModel
from retentive.models.registry import config_to_dict
from retentive.training.curriculum.folder import CurriculumFolder, CurriculumProgress
from retentive.training.run.fit import learner_alone
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.learner import Backpropagation, Learner

HELD_OUT = 1 << 40
"""Number of the first batch that is not trained on."""

Task = Callable[[int, int], Batch]
"""Called with the number of a batch and a number of segments, returns rows of that many segments."""


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """The stages of a curriculum.

    Attributes:
        stages: Longest text of each stage in segments, ascending.
        learned_below: A stage is learned when the mean loss of its longest texts is below this, in nats.
        patience: Batches of the longest texts over which the mean is taken.
        held_out_batches: Batches that are not trained on, of texts longer than those of the stage, on which a stage
            must be learned too; 0 looks at the batches of training alone. What holds on short texts need not hold on
            longer ones, and early stopping on short ones picks the wrong weights (arXiv:2406.10149, appendix C).
        held_out_length: Segments of these texts, as a multiple of the stage's longest.
        newest_share: Share of batches with the longest texts of the stage. The others have any length up to that, so
            that short texts are not forgotten.
        seed: Decides which lengths are drawn.
    """

    stages: tuple[int, ...]
    learned_below: float = 0.1
    patience: int = 20
    held_out_batches: int = 0
    held_out_length: float = 2.0
    newest_share: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        growing = all(before < after for before, after in itertools.pairwise(self.stages))
        if not self.stages or self.stages[0] < 1 or not growing:
            raise ValueError(f"stages must be numbers of segments from 1 on that grow, but are {self.stages}.")
        if not self.learned_below > 0:
            raise ValueError(f"learned_below must be above 0 nats, but is {self.learned_below}.")
        check_count("patience", self.patience, unit="batch")
        if self.held_out_batches < 0:
            raise ValueError(f"held_out_batches must be at least 0, but are {self.held_out_batches}.")
        if not self.held_out_length >= 1:
            raise ValueError(
                f"held_out_length must be at least 1 time the longest text, but is {self.held_out_length}."
            )
        if not 0 < self.newest_share <= 1:
            raise ValueError(f"newest_share must be above 0 and at most 1, but is {self.newest_share}.")


class SegmentCurriculum:
    """Chooses the length of each batch, and enters the next stage once the longest texts are learned.

    Attributes:
        config: The stages.
        stage: Index of the current stage; the number of stages once the last is learned.
        recent: The last losses of the current stage's longest texts.
    """

    def __init__(self, config: CurriculumConfig, stage: int = 0, recent: Iterable[float] = ()) -> None:
        """Begin with the first stage, or go on with another."""
        check_kind("config", config, CurriculumConfig)
        self.config = config
        self.stage = stage
        self.recent: deque[float] = deque(recent, maxlen=config.patience)

    @property
    def is_finished(self) -> bool:
        """Whether the last stage is learned."""
        return self.stage == len(self.config.stages)

    @property
    def longest(self) -> int:
        """Segments of the longest texts of the current stage."""
        return self.config.stages[min(self.stage, len(self.config.stages) - 1)]

    @property
    def held_out_segments(self) -> int:
        """Segments of the texts that are not trained on."""
        return math.ceil(self.longest * self.config.held_out_length)

    def segments(self, step: int) -> int:
        """Return the segments of a step's texts, which depend on the step, the stage and the seed alone."""
        random = np.random.default_rng((self.config.seed, step))
        if random.random() < self.config.newest_share:
            return self.longest
        return int(random.integers(1, self.longest + 1))

    def record(self, segments: int, loss: float, held_out: Callable[[int], float] | None = None) -> bool:
        """Record the loss of a step. Return whether a stage was learned by it.

        Args:
            segments: Of the step's texts.
            loss: Their mean, in nats.
            held_out: Called with a number of segments where the stage looks learned, returns the mean loss of such
                texts that are not trained on.
        """
        if self.is_finished or segments != self.longest:
            return False
        self.recent.append(loss)
        mean = sum(self.recent) / len(self.recent)
        if len(self.recent) < self.config.patience or mean >= self.config.learned_below:
            return False
        self.recent.clear()  # held-out texts are read once in so many batches
        if held_out is not None and held_out(self.held_out_segments) >= self.config.learned_below:
            return False
        self.stage += 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLearned:
    """When a stage was learned.

    Attributes:
        segments: Segments of its longest texts.
        step: Steps until then.
        seconds: Time until then.
    """

    segments: int
    step: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumReport:
    """The result of a curriculum.

    Attributes:
        stages: The stages that were learned, in order.
        is_finished: Whether all stages were learned.
        steps: Steps in all.
        seconds: Duration in all.
        losses: Loss of every step, in nats.
    """

    stages: tuple[StageLearned, ...]
    is_finished: bool
    steps: int
    seconds: float
    losses: tuple[float, ...] = field(repr=False)


def _check_numbers(segment_length: int, max_steps: int, max_seconds: float, extra_steps: int) -> None:
    check_count("segment_length", segment_length, unit="token")
    check_count("max_steps", max_steps)
    check_count("extra_steps", extra_steps, least=0)
    if not max_seconds >= 0:
        raise ValueError(f"max_seconds must be at least 0, but is {max_seconds}.")


def fit_curriculum(
    model: LanguageModel,
    task: Task,
    config: CurriculumConfig,
    *,
    segment_length: int,
    max_steps: int,
    max_seconds: float = float("inf"),
    extra_steps: int = 0,
    optimizer: OptimizerConfig | None = None,
    schedule: ScheduleConfig | None = None,
    backpropagation: Backpropagation = "plain",
    folder: Path | None = None,
    checkpoint_every: int = 100,
    described: Mapping[str, object] | None = None,
    on_step: Callable[[int, int, float], object] = lambda step, segments, loss: None,
    on_stage: Callable[[StageLearned], object] = lambda stage: None,
) -> CurriculumReport:
    """Train a model of any family in this process, on texts that become longer stage by stage.

    Each text is read segment by segment with the state carried and gradients through all of it.

    Args:
        model: Changed in place.
        task: Makes the batches; those that are not trained on are numbered from `HELD_OUT` on.
        config: The stages.
        segment_length: Tokens of one call; for recurrent memory its own ``segment_length``.
        max_steps: Steps of the optimizer at most.
        max_seconds: Duration at most; checked after every step.
        extra_steps: Steps after the last stage is learned.
        optimizer: How a step changes the weights; None is `OptimizerConfig`'s defaults.
        schedule: The learning rate; None warms up over 100 steps, then is constant.
        backpropagation: How gradients go back through the segments; see `HardwareConfig`.
        folder: Where checkpoints are: called again with the same arguments, training goes on as if it had not stopped.
        checkpoint_every: Steps between checkpoints; the last step is always one.
        described: What decides the task's batches, as JSON; a ``folder`` that says something else is refused.
        on_step: Called after every step with its number, segments and loss.
        on_stage: Called whenever a stage is learned.

    Raises:
        ValueError: If a number is out of range, or the model cannot be back-propagated through in this way.
        MismatchError: If ``folder`` holds a curriculum of other options or another model.
        DivergedError: If the loss or a gradient is not finite.
    """
    check_kind("config", config, CurriculumConfig)
    _check_numbers(segment_length, max_steps, max_seconds, extra_steps)
    check_count("checkpoint_every", checkpoint_every)
    learner = _learner(
        model, optimizer, schedule, seed=config.seed, max_steps=max_steps, backpropagation=backpropagation
    )
    files = None
    if folder is not None:
        options = {"curriculum": config, "optimizer": optimizer, "schedule": schedule, "segment_length": segment_length}
        made = {"extra_steps": extra_steps, "model": config_to_dict(model.config), "task": dict(described or {})}
        files = CurriculumFolder(folder, {**options, **made})
    limits = _Limits(
        max_steps=max_steps, max_seconds=max_seconds, extra_steps=extra_steps, checkpoint_every=checkpoint_every
    )
    segments = partial(cut_segments, segment_length=segment_length)
    return _train(learner, task, segments, config, limits, files, on_step, on_stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """When training ends, and when it is written down; see `fit_curriculum`."""

    max_steps: int
    max_seconds: float
    extra_steps: int
    checkpoint_every: int


def _train(
    learner: Learner,
    task: Task,
    cut: Callable[[Batch], Sequence[Batch]],
    config: CurriculumConfig,
    limits: _Limits,
    files: CurriculumFolder | None,
    on_step: Callable[[int, int, float], object],
    on_stage: Callable[[StageLearned], object],
) -> CurriculumReport:
    """Train from where the files say, or from the begin, to an end."""
    held_out = partial(_held_out_loss, learner, task, config.held_out_batches) if config.held_out_batches else None
    so_far = CurriculumProgress() if files is None else files.restore(learner)
    curriculum = SegmentCurriculum(config, so_far.stage, so_far.recent)
    learned, losses = [StageLearned(**stage) for stage in so_far.learned], [*so_far.losses]
    begin = time.perf_counter() - so_far.seconds
    is_last = len(losses) >= limits.max_steps or _is_over(curriculum, learned, len(losses), limits.extra_steps)
    while not is_last:
        step = len(losses)
        segments, longest = curriculum.segments(step), curriculum.longest
        loss = learner.step(step, [cut(task(step, segments))]).loss
        losses.append(loss)
        if curriculum.record(segments, loss, held_out):
            learned.append(StageLearned(segments=longest, step=step + 1, seconds=time.perf_counter() - begin))
            on_stage(learned[-1])
        on_step(step, segments, loss)
        seconds = time.perf_counter() - begin
        is_last = len(losses) == limits.max_steps or seconds > limits.max_seconds
        is_last = is_last or _is_over(curriculum, learned, len(losses), limits.extra_steps)
        if files is not None and (is_last or len(losses) % limits.checkpoint_every == 0):
            progress = CurriculumProgress(
                stage=curriculum.stage,
                recent=tuple(curriculum.recent),
                learned=tuple(asdict(stage) for stage in learned),
                losses=tuple(losses),
                seconds=seconds,
            )
            files.save(learner, progress)
    seconds, is_finished = time.perf_counter() - begin, curriculum.is_finished
    return CurriculumReport(
        stages=tuple(learned), is_finished=is_finished, steps=len(losses), seconds=seconds, losses=tuple(losses)
    )


def _is_over(curriculum: SegmentCurriculum, learned: Sequence[StageLearned], steps: int, extra_steps: int) -> bool:
    """Whether the last stage is learned, and the steps after it are done."""
    return curriculum.is_finished and steps >= learned[-1].step + extra_steps


def _held_out_loss(learner: Learner, task: Task, batches: int, segments: int) -> float:
    """The mean loss of texts of some segments that are not trained on."""
    total, labels = learner.evaluate([task(HELD_OUT + number, segments) for number in range(batches)])
    return total / max(1, labels)


def _learner(
    model: LanguageModel,
    optimizer: OptimizerConfig | None,
    schedule: ScheduleConfig | None,
    *,
    seed: int,
    max_steps: int,
    backpropagation: Backpropagation,
) -> Learner:
    check_kind("optimizer", optimizer, OptimizerConfig, type(None))
    check_kind("schedule", schedule, ScheduleConfig, type(None))
    if schedule is None:
        schedule = ScheduleConfig(warmup_steps=min(100, max_steps - 1), final_share=1.0)
    return learner_alone(model, optimizer, schedule, steps=max_steps, seed=seed, backpropagation=backpropagation)


def cut_segments(batch: Batch, segment_length: int) -> Sequence[Batch]:
    """Cut a batch into consecutive windows of one segment each.

    Raises:
        ValueError: If the batch has inputs besides tokens, which cannot be cut into segments.
    """
    if batch.extra_inputs:
        raise ValueError(
            f"a batch of a curriculum must hold tokens alone, but has {', '.join(batch.extra_inputs)} too; train on "
            "windows of one length with fit."
        )
    pieces = (tensor.split(segment_length, 1) for tensor in (batch.tokens, batch.labels, batch.starts))
    return [Batch(tokens=tokens, labels=labels, starts=starts) for tokens, labels, starts in zip(*pieces, strict=True)]
