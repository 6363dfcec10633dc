"""A memory around a pretrained model learns to carry a word."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from retentive.data.batch import IGNORED
from retentive.experiments.remember.texts import Facts, training_batch
from retentive.layers.memory.associative import AssociativeMemory
from retentive.models.protocol import LanguageModel, ModelOutput
from retentive.models.rmt import RecurrentMemoryTransformer
from retentive.state import RecurrentState
from retentive.training.objectives.protocol import Measured, Objective
from retentive.training.processes.parallelism import Precision
from retentive.training.run.fit import learner_alone
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.window import Window


class Answers(Objective):
    """The cross-entropy of the labels at the end of a text alone: the head reads no other token."""

    def __call__(self, model: nn.Module, window: Window, state: RecurrentState | None) -> Measured:
        """See `Objective`."""
        asked = int((window.labels != IGNORED).any(0).sum())
        output: ModelOutput = model(window.tokens, state, starts=window.starts, logits_to_keep=asked)
        assert output.logits is not None
        labels = window.labels[:, -asked:].flatten()
        total = cross_entropy(output.logits.flatten(0, 1).float(), labels, ignore_index=IGNORED, reduction="sum")
        return total, window.num_labels, output.state


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Steps on texts of up to so many segments."""

    segments: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What training took.

    Attributes:
        steps: That were taken.
        seconds: Of the clock.
        processor_seconds: Of processors, summed over threads.
        losses: Of every step, in nats a token of a word.
    """

    steps: int
    seconds: float
    processor_seconds: float
    losses: tuple[float, ...]


@torch.no_grad()
def begin_from_text(model: RecurrentMemoryTransformer, tokens: list[int]) -> None:
    """Let memory tokens start as the embeddings of a text, which comes again and again where it is short."""
    table = model.decoder.embedding.tokens.weight
    for learned in model.memory.parameters():
        count = learned.shape[0]
        ids = (tokens * (count // len(tokens) + 1))[-count:]
        learned.copy_(table[ids])


@torch.no_grad()
def recall_in_last_layers(model: RecurrentMemoryTransformer, layers: int) -> None:
    """Let the associative memories of the last layers begin with what memory tokens hold there, and learn alone.

    What a layer made of the memory tokens is recalled before the same layer by a later segment. In layers before,
    nothing is recalled or learned, and no gradient goes back through them.
    """
    memories = cast("list[AssociativeMemory]", list(model.associations))
    model.memory.requires_grad_(False)
    for memory in memories[: len(memories) - layers]:
        memory.value_proj.weight.zero_()
        memory.requires_grad_(False)
    for memory in memories[len(memories) - layers :]:
        memory.value_proj.weight.copy_(_FIRST_VALUE * torch.eye(memory.config.hidden_size))


_FIRST_VALUE = 0.5
"""Of what a memory token holds, so much is stored at first."""


def train_to_remember(
    model: LanguageModel,
    facts: Facts,
    phases: tuple[Phase, ...],
    *,
    rows: int,
    segment_length: int,
    learning_rate: float,
    seed: int,
    max_seconds: float,
    precision: Precision,
    on_step: Callable[[int, float], object],
) -> Training:
    """Train what is not frozen, phase after phase; texts of a phase have 2 segments or more, up to its own number.

    Args:
        model: Changed in place.
        facts: What texts are made of.
        phases: One after the other.
        rows: Texts of a step.
        segment_length: Tokens of a segment.
        learning_rate: The highest.
        seed: Decides texts.
        max_seconds: Of the clock; training ends with the step in which they are over.
        precision: Of products.
        on_step: Called with the number and the loss of each step.
    """
    begin, processor_begin = time.perf_counter(), time.process_time()
    steps, losses = sum(phase.steps for phase in phases), list[float]()
    longest = [phase.segments for phase in phases for _ in range(phase.steps)]
    learner = learner_alone(
        model,
        OptimizerConfig(learning_rate=learning_rate, beta2=0.98, weight_decay=0.0),
        ScheduleConfig(warmup_steps=min(10, steps - 1), final_share=0.1),
        steps=steps,
        seed=seed,
        objective=Answers(),
        precision=precision,
    )
    for step, most in enumerate(longest):
        random = np.random.default_rng((seed, step))
        segments = int(random.integers(2, most + 1))
        batch = training_batch(facts, rows=rows, segments=segments, segment_length=segment_length, random=random)
        losses.append(learner.step(step, [[batch]]).loss)
        on_step(step, losses[-1])
        if time.perf_counter() - begin > max_seconds:
            break
    return Training(
        steps=len(losses),
        seconds=time.perf_counter() - begin,
        processor_seconds=time.process_time() - processor_begin,
        losses=tuple(losses),
    )
