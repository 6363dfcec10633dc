"""A curriculum of text lengths: first texts of one segment, then of two, then of more (arXiv:2304.11062)."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from retentive.config_types import check_count, check_kind, check_types
from retentive.data.batch import Batch
from retentive.models.protocol import LanguageModel
from retentive.training.run.fit import learner_alone
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.learner import Backpropagation, Learner

Task = Callable[[int, int], Batch]
"""Called with the number of a batch and a number of segments, returns rows of that many segments."""


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """The stages of a curriculum.

    Attributes:
        stages: Longest text of each stage in segments, ascending.
        learned_below: A stage is learned when the mean loss of its longest texts is below this, in nats.
        patience: Batches of the longest texts over which the mean is taken.
        newest_share: Share of batches with the longest texts of the stage. The others have any length up to that, so
            that short texts are not forgotten.
        seed: Decides which lengths are drawn.
    """

    stages: tuple[int, ...]
    learned_below: float = 0.1
    patience: int = 20
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
        if not 0 < self.newest_share <= 1:
            raise ValueError(f"newest_share must be above 0 and at most 1, but is {self.newest_share}.")


class SegmentCurriculum:
    """Chooses the length of each batch, and enters the next stage once the longest texts are learned.

    Attributes:
        stage: Index of the current stage; the number of stages once the last is learned.
    """

    def __init__(self, config: CurriculumConfig) -> None:
        check_kind("config", config, CurriculumConfig)
        """Begin with the first stage."""
        self.config = config
        self.stage = 0
        self._losses: deque[float] = deque(maxlen=config.patience)

    @property
    def is_finished(self) -> bool:
        """Whether the last stage is learned."""
        return self.stage == len(self.config.stages)

    @property
    def longest(self) -> int:
        """Segments of the longest texts of the current stage."""
        return self.config.stages[min(self.stage, len(self.config.stages) - 1)]

    def segments(self, step: int) -> int:
        """Return the segments of a step's texts, which depend on the step, the stage and the seed alone."""
        random = np.random.default_rng((self.config.seed, step))
        if random.random() < self.config.newest_share:
            return self.longest
        return int(random.integers(1, self.longest + 1))

    def record(self, segments: int, loss: float) -> bool:
        """Record the loss of a step. Return whether a stage was learned by it."""
        if self.is_finished or segments != self.longest:
            return False
        self._losses.append(loss)
        mean = sum(self._losses) / len(self._losses)
        if len(self._losses) < self.config.patience or mean >= self.config.learned_below:
            return False
        self.stage += 1
        self._losses.clear()
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
    on_step: Callable[[int, int, float], object] = lambda step, segments, loss: None,
    on_stage: Callable[[StageLearned], object] = lambda stage: None,
) -> CurriculumReport:
    """Train a model of any family in this process, on texts that become longer stage by stage.

    Each text is read segment by segment with the state carried and gradients through all of it.

    Args:
        model: Changed in place.
        task: Makes the batches.
        config: The stages.
        segment_length: Tokens of one call; for recurrent memory its own ``segment_length``.
        max_steps: Steps of the optimizer at most.
        max_seconds: Duration at most; checked after every step.
        extra_steps: Steps after the last stage is learned.
        optimizer: How a step changes the weights; None is `OptimizerConfig`'s defaults.
        schedule: The learning rate; None warms up over 100 steps, then is constant.
        backpropagation: How gradients go back through the segments; see `HardwareConfig`.
        on_step: Called after every step with its number, segments and loss.
        on_stage: Called whenever a stage is learned.

    Raises:
        ValueError: If a number is out of range, or the model cannot be back-propagated through in this way.
        DivergedError: If the loss or a gradient is not finite.
    """
    check_kind("config", config, CurriculumConfig)
    _check_numbers(segment_length, max_steps, max_seconds, extra_steps)
    learner = _learner(
        model, optimizer, schedule, seed=config.seed, max_steps=max_steps, backpropagation=backpropagation
    )
    curriculum, learned, losses = SegmentCurriculum(config), list[StageLearned](), list[float]()
    begin, left = time.perf_counter(), extra_steps
    for step in range(max_steps):
        segments, longest = curriculum.segments(step), curriculum.longest
        loss = learner.step(step, [cut_segments(task(step, segments), segment_length)]).loss
        losses.append(loss)
        seconds = time.perf_counter() - begin
        if curriculum.record(segments, loss):
            learned.append(StageLearned(segments=longest, step=step + 1, seconds=seconds))
            on_stage(learned[-1])
        on_step(step, segments, loss)
        left -= curriculum.is_finished
        if left < 0 or seconds > max_seconds:
            break
    seconds, is_finished = time.perf_counter() - begin, curriculum.is_finished
    return CurriculumReport(
        stages=tuple(learned), is_finished=is_finished, steps=len(losses), seconds=seconds, losses=tuple(losses)
    )


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
