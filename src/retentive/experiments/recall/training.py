"""Training of a small recurrent memory that learns, in minutes, to keep a fact over any length.

It learns because gradients flow through all segments, texts grow by a segment once the last length is learned, segments
are short before they are long, and half of each embedding is that of the byte before (a fact is three bytes that belong
together). It lasts because memory tokens hold only signs: each segment rounds a drifting value back to +1 or -1, and
some signs are flipped at random in training, so that the model relies on no single one. What it reads between facts is
real text in one half of the rows, and every byte that a text may have in the other.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from retentive.data.tasks.recurrent_tasks import Filler, fact_in_filler, filler_bytes
from retentive.models.rmt import RecurrentMemoryConfig, RecurrentMemoryTransformer
from retentive.models.transformer import TransformerConfig
from retentive.training.curriculum.fit import CurriculumConfig, CurriculumReport, StageLearned, fit_curriculum
from retentive.training.step.config import OptimizerConfig, ScheduleConfig

MemoryKind = Literal["sign", "continuous", "noisy", "associative", "none"]
"""``sign``: with 5% of the signs turned in training. ``noisy``: continuous, with noise of a tenth of its size in
training. ``none``: a Transformer that sees its segment alone."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of training.

    Attributes:
        segment_length: Bytes of a segment.
        stages: Segments of the longest texts of each stage.
        extra_steps: Steps after the last stage is learned.
        learning_rate: The highest learning rate.
        falling_steps: Steps over which the learning rate falls, after which the phase ends whatever was learned; None
            leaves it where it is, and ends ``extra_steps`` after the last stage is learned.
    """

    segment_length: int
    stages: tuple[int, ...]
    extra_steps: int = 0
    learning_rate: float = 3e-3
    falling_steps: int | None = None


PHASES = (
    Phase(32, (1, 2, 3, 4, 6, 8, 12, 16), extra_steps=150),
    Phase(128, (1, 2, 4), extra_steps=20),
    Phase(512, (1, 3), extra_steps=30),
    Phase(512, (8,), learning_rate=1.5e-3, falling_steps=160),
)
"""Short segments are cheap, so that is where holding is learned; the length of the last phase is what is measured.

The last phase keeps an empty memory empty. Without it, long filler can drift into the code of a value that was never
said, and a fact that comes then is not written.
"""

SEGMENT_LENGTH = PHASES[-1].segment_length

MOST_STEPS = 1500
"""Of a phase, in which a model has either learned or will not."""

_BATCH_SIZE = 32
_LOWEST_LEARNING_RATE = 0.02
"""As a share of the highest, where it falls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How one model was trained.

    Attributes:
        model: The result.
        phases: What came of each phase.
        seconds: Wall-clock time of training.
        processor_seconds: Processor time of training, summed over threads.
    """

    model: RecurrentMemoryTransformer
    phases: tuple[CurriculumReport, ...]
    seconds: float
    processor_seconds: float

    @property
    def is_learned(self) -> bool:
        """Whether every stage of every phase was learned."""
        return len(self.phases) == len(PHASES) and all(phase.is_finished for phase in self.phases)

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of each phase."""
        return tuple(phase.steps for phase in self.phases)


def recall_config(kind: MemoryKind) -> RecurrentMemoryConfig:
    """A model of 33 thousand parameters; all kinds of memory have the same backbone and segments."""
    backbone = TransformerConfig(vocab_size=256, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64)
    config = RecurrentMemoryConfig(
        backbone=backbone, segment_length=SEGMENT_LENGTH, num_memory_tokens=0, token_shift=True
    )
    if kind == "none":
        return config
    config = replace(config, num_memory_tokens=4, causal_memory=True)
    if kind == "sign":
        return replace(config, memory_code="sign", memory_flips=0.05)
    if kind == "noisy":
        return replace(config, memory_noise=0.1)
    return replace(config, memory="associative", associative_dim=16) if kind == "associative" else config


def train_to_recall(
    kind: MemoryKind,
    *,
    seed: int,
    max_seconds: float,
    steps: tuple[int, ...] | None = None,
    filler: Filler = filler_bytes,
    on_stage: Callable[[StageLearned], object] = lambda stage: None,
) -> Training:
    """Train a model from scratch, phase after phase, until each is learned.

    Args:
        kind: Kind of memory.
        seed: Decides weights, texts and their lengths.
        max_seconds: Time limit in seconds; stages not learned by then stay unlearned.
        steps: Steps of each phase, at most; phases beyond them are left out. None gives each all the steps that it may
            need.
        filler: What stands around facts and questions.
        on_stage: Called whenever a stage is learned.
    """
    begin, processor_begin = time.perf_counter(), time.process_time()
    config, phases = recall_config(kind), list[CurriculumReport]()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = _resized(None, config, PHASES[0].segment_length)
        for number, phase in enumerate(PHASES if steps is None else PHASES[: len(steps)]):
            model = _resized(model, config, phase.segment_length)
            report = _train_phase(
                model,
                phase,
                seed=seed,
                filler=filler,
                max_steps=(phase.falling_steps or MOST_STEPS) if steps is None else steps[number],
                max_seconds=max(0.0, max_seconds - (time.perf_counter() - begin)),
                on_stage=on_stage,
            )
            phases.append(report)
            if steps is None and not report.is_finished:
                break
    model = _resized(model, config, SEGMENT_LENGTH).eval()
    return Training(
        model=model,
        phases=tuple(phases),
        seconds=time.perf_counter() - begin,
        processor_seconds=time.process_time() - processor_begin,
    )


def _resized(
    model: RecurrentMemoryTransformer | None, config: RecurrentMemoryConfig, segment_length: int
) -> RecurrentMemoryTransformer:
    """A model with the same weights that reads segments of another length."""
    resized = RecurrentMemoryTransformer(replace(config, segment_length=segment_length))
    if model is not None:
        resized.load_state_dict(model.state_dict())
    return resized


def _train_phase(
    model: RecurrentMemoryTransformer,
    phase: Phase,
    *,
    seed: int,
    filler: Filler,
    max_steps: int,
    max_seconds: float,
    on_stage: Callable[[StageLearned], object],
) -> CurriculumReport:
    length, falls = phase.segment_length, phase.falling_steps is not None
    task = partial(fact_in_filler, batch_size=_BATCH_SIZE, segment_length=length, seed=seed, filler=filler)
    return fit_curriculum(
        model,
        lambda step, segments: task(step, segments=segments),
        CurriculumConfig(stages=phase.stages, seed=seed),
        segment_length=length,
        max_steps=max_steps,
        max_seconds=max_seconds,
        extra_steps=max_steps if falls else phase.extra_steps,
        optimizer=OptimizerConfig(learning_rate=phase.learning_rate, beta2=0.98, weight_decay=0.01),
        schedule=ScheduleConfig(
            warmup_steps=min(5 if falls else 50, max_steps - 1), final_share=_LOWEST_LEARNING_RATE if falls else 1.0
        ),
        on_stage=on_stage,
    )
